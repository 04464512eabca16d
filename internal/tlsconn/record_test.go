package tlsconn

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// However a stream is cut, records end where their headers say.
func FuzzRecordTracker(f *testing.F) {
	f.Add([]byte("\x17\x03\x03\x00\x02ab\x15\x03\x03\x00\x00"), uint8(1))
	f.Add([]byte("\x15\x03\x03\x01"), uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) {
		var whole, cuts recordTracker
		whole.follow(stream)
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), 1+int(cut))
			cuts.follow(rest[:n])
			rest = rest[n:]
		}
		require.Equal(t, whole, cuts)
		rest := stream
		for len(rest) >= 5 {
			size := 5 + int(rest[3])<<8 + int(rest[4])
			if len(rest) < size {
				break
			}
			rest = rest[size:]
		}
		require.Equal(t, len(rest) > 0, whole.inRecord())
		if len(rest) > 0 {
			require.Equal(t, rest[0] == 21, whole.inAlert())
		}
	})
}
