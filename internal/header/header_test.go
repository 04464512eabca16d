package header

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnd_IsBehindTheFirstEmptyLine(t *testing.T) {
	for p, want := range map[string]int{
		"": -1, "A": -1, "A: b\n": -1, "A: b\r\n": -1, "A: b\r\n\r": -1, "A: b\n\r": -1,
		"\n": 1, "\r\n": 2, "\nA: b\n\n": 1, "\r": -1, "\rA\n\n": 4,
		"A: b\n\n": 6, "A: b\r\n\r\n": 8, "A: b\n\r\nbody\n\n": 7, "A: b\r\n\nbody": 7,
		"A: b\r\nC: d\r\n\r\n": 14, "A: b\r\r\n\r\n": 9,
	} {
		require.Equal(t, want, End([]byte(p), 0), "%q", p)
	}
}

// The end is found however the header arrives.
func FuzzEnd(f *testing.F) {
	f.Add([]byte("A: b\r\n\r\nbody"), 6)
	f.Add([]byte("A: b\n\nbody\n\n"), 5)
	f.Add([]byte("\r\n\n"), 1)
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		end := End(p, 0)
		require.LessOrEqual(t, end, len(p))
		if cut < 0 || cut > len(p) {
			return
		}
		if first := End(p[:cut], 0); first >= 0 {
			require.Equal(t, end, first)
		} else {
			require.Equal(t, end, End(p, cut))
		}
	})
}
