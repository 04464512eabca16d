package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// events makes what test2json prints of lines "action test".
func events(lines ...string) string {
	var all strings.Builder
	for _, line := range lines {
		action, test, _ := strings.Cut(line, " ")
		all.WriteString(`{"Action":"` + action + `","Test":"` + test + `"}` + "\n")
	}
	return all.String()
}

func TestEvents_ParentTestsAreNotCounted(t *testing.T) {
	all, _, _, err := read(strings.NewReader(events(
		"run T", "run T/a", "run T/a/b", "pass T/a/b", "pass T/a", "run T/c", "skip T/c", "pass T", "run U", "fail U")))
	require.NoError(t, err)
	require.Equal(t, outcomes{"T/a/b": passed, "T/c": skipped, "U": failed}, all)
}

func TestEvents_ParentTestThatFailsItselfIsCounted(t *testing.T) {
	all, _, _, err := read(strings.NewReader(events(
		"run T", "run T/a", "pass T/a", "fail T", "run U", "run U/b", "fail U/b", "fail U")))
	require.NoError(t, err)
	require.Equal(t, outcomes{"T": failed, "T/a": passed, "U/b": failed}, all)
}

func TestEvents_UnfinishedTestHasFailed(t *testing.T) {
	all, _, finished, err := read(strings.NewReader(events("run T", "pass T", "run U") + "panic: it is not JSON\n"))
	require.NoError(t, err)
	require.Equal(t, outcomes{"T": passed, "U": failed}, all)
	require.False(t, finished)
}

func TestEvents_ProgramWithAResultHasFinished(t *testing.T) {
	for _, last := range []string{"PASS", "FAIL"} {
		_, _, finished, err := read(strings.NewReader(events("run T", "pass T") + `{"Action":"output","Output":"` + last + `\n"}`))
		require.NoError(t, err)
		require.True(t, finished)
	}
}

func TestEvents_OutputBelongsToItsTest(t *testing.T) {
	_, output, _, err := read(strings.NewReader(`{"Action":"output","Test":"T","Output":"one\n"}
{"Action":"output","Test":"U","Output":"other\n"}
{"Action":"output","Test":"T","Output":"two\n"}`))
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\n", output["T"].String())
}

func TestEvents_TemporaryDirectoryInANameIsReplaced(t *testing.T) {
	all, _, _, err := read(strings.NewReader(events("run T/file=/tmp/T123456789/001/f_size=2147483648")))
	require.NoError(t, err)
	require.Equal(t, outcomes{"T/file=/tmp/T…/001/f_size=2147483648": failed}, all)
	require.Equal(t, []string{"-test.run=^T$/^file=$/^tmp$/^T[0-9]+$/^001$/^f_size=2147483648$"}, alone("T/file=/tmp/T…/001/f_size=2147483648"))
}
