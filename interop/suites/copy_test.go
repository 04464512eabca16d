package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEdit_KeepsLineNumbersAndImportsDials(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.go")
	require.NoError(t, os.WriteFile(file, []byte("// A comment.\n\npackage a\n\nvar f, g = d.DialContext, e.DialContext\n"), 0o600))
	for _, e := range []edit{
		{file: "a.go", from: "d.DialContext", to: "suites.By(d)"},
		{file: "a.go", from: "e.DialContext", to: "suites.By(e)"},
	} {
		require.NoError(t, e.apply(dir, "m/internal/dials"))
	}
	is, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "// A comment.\n\npackage a; import suites \"m/internal/dials\"\n\nvar f, g = suites.By(d), suites.By(e)\n", string(is))
}

func TestEdit_UnexpectedSourceIsAnError(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.go"), []byte("package a\n\nvar f, g = d.Dial, d.Dial\n"), 0o600))
	require.ErrorContains(t, edit{file: "a.go", from: "d.Dial", to: "e.Dial"}.apply(dir, "m"), "2 times, not 1")
	require.ErrorContains(t, edit{file: "a.go", from: "x", to: "y"}.apply(dir, "m"), "0 times, not 1")
	require.NoError(t, edit{file: "a.go", from: "d.Dial", to: "e.Dial", times: 2}.apply(dir, "m"))
}

func TestCopy_IsWritable(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.Mkdir(filepath.Join(from, "d"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(from, "d", "f"), []byte("text"), 0o400))
	require.NoError(t, copyTree(from, to))
	info, err := os.Stat(filepath.Join(to, "d", "f"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode().Perm()&0o200)
	is, err := os.ReadFile(filepath.Join(to, "d", "f"))
	require.NoError(t, err)
	require.Equal(t, "text", string(is))
}
