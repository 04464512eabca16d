package contest

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/blocksock/client/bench/internal/sample"
)

// roundTripInC returns the command line of the C program for a spec.
func (c *Contest) roundTripInC(s *sample.Spec) []string {
	line := []string{c.programs.RoundTrip, s.Network, s.Address}
	for _, n := range []int64{
		int64(s.Request), int64(s.Reply), int64(max(s.Conns, 1)), s.Warmup.Nanoseconds(), s.Length.Nanoseconds(), int64(s.Count),
	} {
		line = append(line, strconv.FormatInt(n, 10))
	}
	return append(line, c.path("times"))
}

// sampleOfC reads the C program's output and its file of times.
func (c *Contest) sampleOfC(s *sample.Spec) func([]byte) (*sample.Sample, error) {
	return func(out []byte) (*sample.Sample, error) {
		var ops, user, system int64
		if _, err := fmt.Sscan(string(out), &ops, &user, &system); err != nil {
			return nil, err
		}
		times, err := os.ReadFile(c.path("times"))
		if err != nil {
			return nil, err
		}
		h := sample.NewHistogram()
		for ; len(times) >= 4; times = times[4:] {
			sample.Record(h, time.Duration(binary.NativeEndian.Uint32(times)))
		}
		if h.TotalCount() != ops {
			return nil, fmt.Errorf("roundtrip wrote %d times for %d operations", h.TotalCount(), ops)
		}
		result := &sample.Sample{Ops: ops, Elapsed: s.Length, User: time.Duration(user), System: time.Duration(system)}
		return result, result.SetLatency(h)
	}
}
