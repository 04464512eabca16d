package fastcgi

import (
	"os"

	"golang.org/x/sys/unix"
)

// openUnnamed opens a file that never has a name (open(2), O_TMPFILE). It fails on file
// systems that do not support this.
func openUnnamed(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_RDWR|os.O_EXCL|unix.O_TMPFILE, 0o600)
}
