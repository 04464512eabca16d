package fastcgi

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A process that was killed between creating a file and removing its name left the file
// behind.
func TestTempFile_NeverHasAName(t *testing.T) {
	t.Setenv("TMPDIR", "/dev/shm") // always a tmpfs
	f, err := createTemp()
	require.NoError(t, err)
	defer f.Close()
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	require.NoError(t, err)
	require.Regexp(t, `^#\d+ \(deleted\)$`, filepath.Base(name))
	_, err = io.WriteString(f, "content")
	require.NoError(t, err)
	_, err = f.Seek(0, io.SeekStart)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "content", string(b))
}
