package sock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestATurnIsForNothingBesideGoroutinesThatCompute(t *testing.T) {
	for _, test := range []struct {
		what  string
		took  time.Duration
		ended uint32
		want  bool
	}{
		{"nobody else", 300 * time.Nanosecond, 0, false},
		{"short whatever it was", time.Millisecond, 0, false},
		{"a goroutine that computes for its time slice", 10 * time.Millisecond, 1, true},
		{"some that compute, and those that wait", 40 * time.Millisecond, 64, true},
		{"those that wait, each in its turn", 2 * time.Millisecond, 64, false},
		{"those that wait, each for a time slice", 300 * time.Millisecond, 20_000, false},
	} {
		require.Equal(t, test.want, isForNothing(test.took, test.ended), test.what)
	}
}

func TestOnlyACrowdLetsOthersRun(t *testing.T) {
	var c crowd
	c.enter()
	defer c.leave()
	ran := make(chan struct{})
	go close(ran)
	require.False(t, c.letOthersRun(), "one call has a processor")
	<-ran

	c.procs.Store(0)
	c.quiet.Store(int64(In(time.Hour)))
	require.False(t, c.letOthersRun(), "turns are for nothing")
	require.Positive(t, Instant(c.quiet.Load()).Left())

	c.quiet.Store(int64(At(time.Unix(1, 0)))) // not any more
	ran = make(chan struct{})
	go close(ran)
	for c.letOthersRun(); ; c.letOthersRun() {
		select {
		case <-ran:
			return // the race detector, for one, makes runnable what another processor has taken
		default:
		}
	}
}

func TestACrowdCountsWhoWaitsAndWhoHasWaited(t *testing.T) {
	var c crowd
	for range 3 {
		c.enter()
	}
	c.leave()
	require.EqualValues(t, 2, uint32(c.word.Load()))
	require.EqualValues(t, 1, c.ended())
	c.word.Store(0xffffffff_00000002)
	c.leave()
	require.EqualValues(t, 1, uint32(c.word.Load()), "the other half begins again from zero")
	require.Zero(t, c.ended())
}
