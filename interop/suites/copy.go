package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// What is put into a copy: the package dials, as internal/dials of the driver's module.
//
//go:embed dials/dials.go
var dialsGo []byte

// The name by which an edited file knows the package. The drivers have no such name
// themselves; one has a variable dials.
const dialsName = "suites"

// client's path, and its place as seen from interop/.
const (
	clientModule = "github.com/blocksock/client"
	clientDir    = ".."
)

// An edit is a change in a file of the driver's.
type edit struct {
	file     string
	from, to string
	times    int // how often from is there; 0 is once
}

// A module is as `go mod download -json` describes it.
type module struct{ Path, Version, Dir string }

// download gives a module that interop requires, from the cache if it is there.
func download(ctx context.Context, path string) (m module, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", path).CombinedOutput()
	if err != nil {
		return m, fmt.Errorf("go list -m %s: %w: %s", path, err, out)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if out, err = exec.CommandContext(ctx, "go", "mod", "download", "-json", path+"@"+version).Output(); err != nil {
		return m, fmt.Errorf("go mod download %s: %w: %s", path, err, out)
	}
	return m, json.Unmarshal(out, &m)
}

// copyOf makes a copy of a module that dials with the package dials.
func copyOf(ctx context.Context, m module, d driver, to string) error {
	if err := copyTree(m.Dir, to); err != nil {
		return err
	}
	in := filepath.Join(to, "internal", "dials")
	if err := os.MkdirAll(in, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(in, "dials.go"), dialsGo, 0o644); err != nil {
		return err
	}
	for _, e := range d.edits {
		if err := e.apply(to, m.Path+"/internal/dials"); err != nil {
			return err
		}
	}
	return requireClient(ctx, d, to)
}

// copyTree copies files and directories. What the module cache has is read-only; the
// copy is its owner's to write.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o644)
	})
}

var packageClause = regexp.MustCompile(`(?m)^package \w+`)

// apply makes the edit, and has the file import the package dials if it did not.
func (e edit) apply(dir, dials string) error {
	path := filepath.Join(dir, e.file)
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(content)
	if n := strings.Count(text, e.from); n != max(e.times, 1) {
		return fmt.Errorf("%s has %q %d times, not %d: it has changed since the edit was made for it", e.file, e.from, n, max(e.times, 1))
	}
	text = strings.ReplaceAll(text, e.from, e.to)
	imports := fmt.Sprintf("; import %s %q", dialsName, dials)
	if !strings.Contains(text, imports) && strings.Contains(e.to, dialsName+".") {
		at := packageClause.FindStringIndex(text)
		if at == nil {
			return fmt.Errorf("%s has no package clause", e.file)
		}
		text = text[:at[1]] + imports + text[at[1]:] // on the same line: the others keep their numbers
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// requireClient adds this repository to the requirements of the module in a directory.
func requireClient(ctx context.Context, d driver, dir string) error {
	repository, err := filepath.Abs(clientDir)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", clientModule + "=" + repository, d.goMod()},
		{"get", "-modfile=" + d.goMod(), clientModule + "@v0.0.0"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = dir
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, said)
		}
	}
	return nil
}
