package report

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An Environment describes the machine and the run.
type Environment struct {
	Date, Go, Compiler, Kernel, CPU string
	CPUs                            int
	Rounds                          int
	Length                          time.Duration // of a round, unless the case sets one
}

// Here describes this machine.
func Here(rounds int, length time.Duration) Environment {
	e := Environment{
		Date: time.Now().UTC().Format(time.DateOnly), Go: runtime.Version(), CPUs: runtime.NumCPU(),
		Rounds: rounds, Length: length,
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	if said, err := exec.Command("cc", "--version").Output(); err == nil {
		e.Compiler, _, _ = strings.Cut(string(said), "\n")
	}
	e.CPU = processor()
	return e
}

// processor returns the model name of the processor according to proc(5), or "".
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
