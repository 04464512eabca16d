// Package native has the programs in C: the server for all peers, and the round trips that are
// the upper bound.
package native

import (
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed c
var sources embed.FS

// Programs has the paths of the programs.
type Programs struct{ Server, RoundTrip string }

// Build compiles the programs with cc, in a directory.
func Build(dir string) (Programs, error) {
	for _, name := range []string{"net.h", "server.c", "roundtrip.c"} {
		source, err := sources.ReadFile("c/" + name)
		if err != nil {
			return Programs{}, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), source, 0o600); err != nil {
			return Programs{}, err
		}
	}
	p := Programs{Server: filepath.Join(dir, "server"), RoundTrip: filepath.Join(dir, "roundtrip")}
	for _, program := range []string{p.Server, p.RoundTrip} {
		said, err := exec.Command("cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, program+".c").CombinedOutput()
		if err != nil {
			return Programs{}, fmt.Errorf("cc: %w: %s", err, said)
		}
	}
	return p, nil
}
