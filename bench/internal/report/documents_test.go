package report

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDocuments_HaveTheFiguresOfTheResults(t *testing.T) {
	all, err := Read("../../results")
	require.NoError(t, err)
	v, err := all.view()
	require.NoError(t, err)
	for name, rows := range map[string]int{
		"busy, in short": 4, "busy": 8, "GOMAXPROCS, in short": 4, "GOMAXPROCS": 12, "datagrams": 6, "other processes": 14,
	} {
		require.Equal(t, 2+rows, strings.Count(documentTables[name](v), "\n"), name)
	}
	shown := 0
	for _, path := range []string{"../../../README.md", "../../../docs/performance.md"} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		again, err := all.Document(text)
		require.NoError(t, err)
		require.Equal(t, string(text), string(again), "%s: run compare -docs", path)
		shown += strings.Count(string(text), "<!-- results: ")
	}
	require.Equal(t, len(documentTables), shown, "each table is shown once")
}

func TestDocument_TellsOfWhatItDoesNotKnow(t *testing.T) {
	for _, text := range []string{
		"<!-- results: no such table -->\n<!-- end -->",
		"<!-- results: busy -->\n| a |",
		"<!-- results: busy",
	} {
		_, err := new(All).Document([]byte(text))
		require.ErrorContains(t, err, "there is no table", text)
	}
}
