package sock

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCPUTimeTellsWhoComputes(t *testing.T) {
	const begin = Instant(time.Hour)
	for _, test := range []struct {
		what            string
		took            time.Duration
		after, cpu      time.Duration
		ended           uint32
		computes, known bool
	}{
		{"goroutines that compute, on two processors", 10 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 1, true, true},
		{"so many that a turn takes long", 5 * time.Second, 5 * time.Second, 10 * time.Second, 1, true, true},
		{"some that compute, and those that wait", 40 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond, 64, true, true},
		{"those that wait, each for a time slice", 300 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond, 20_000, false, true},
		{"other processes have the machine", 10 * time.Millisecond, 300 * time.Millisecond, time.Millisecond, 60, false, true},
		{"the process was stopped", time.Minute, time.Minute, 100 * time.Microsecond, 1, false, true},
		{"too short to say", 9 * time.Millisecond, time.Millisecond, 2 * time.Millisecond, 0, false, true},
		{"too long ago", 10 * time.Millisecond, 2 * time.Second, 4 * time.Second, 0, false, false},
	} {
		c := crowd{last: sample{begin, time.Minute, 1<<32 - 10}}
		now := sample{begin.Add(test.after), time.Minute + test.cpu, test.ended - 10}
		computes, known := c.computes(test.took, now)
		require.Equal(t, test.computes, computes, test.what)
		require.Equal(t, test.known, known, test.what)
	}
	var c crowd
	_, known := c.computes(shortTurn, sample{begin, time.Minute, 0})
	require.False(t, known, "the first")
}

func TestACrowdIsMoreWhoWaitThanProcessorsAndNobodyWhoComputes(t *testing.T) {
	var c crowd
	c.enter()
	defer c.leave()
	require.False(t, c.isHere(), "one call has a processor")
	c.procs.Store(0)
	require.True(t, c.isHere())
	c.quiet.Store(int64(In(time.Hour)))
	require.False(t, c.isHere(), "turns are for nothing")
	c.quiet.Store(int64(At(time.Unix(1, 0))))
	require.True(t, c.isHere(), "not any more")
}

func TestLettingOthersRunTellsForHowLong(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const long = 2 * time.Millisecond
	var c crowd
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		for begin := Now(); time.Duration(Now()-begin) < long; { //nolint:revive // it computes
		}
		c.enter()
		c.leave()
	}()
	var sum time.Duration
	var ended uint32
	for over := false; !over; { // it may have its time in pieces
		took, n := c.letOthersRun()
		sum, ended = sum+took, ended+n
		select {
		case <-ran:
			over = true
		default:
		}
	}
	require.Greater(t, sum, long/2)
	require.EqualValues(t, 1, ended)
}

func TestQuietIsNotMadeShorterAndNotTooLong(t *testing.T) {
	var c crowd
	c.beQuiet(time.Millisecond)
	first := c.quiet.Load()
	require.Positive(t, Instant(first).Left())
	c.beQuiet(time.Microsecond)
	require.Equal(t, first, c.quiet.Load())
	c.beQuiet(time.Hour) // the process was stopped
	require.Greater(t, Instant(c.quiet.Load()).Left(), longestQuiet/2)
	require.LessOrEqual(t, Instant(c.quiet.Load()).Left(), longestQuiet)
}

func TestWhoHasIdleTurnsAloneHasFewer(t *testing.T) {
	defer crowded()()
	var d side
	turns := func(waits int) (all int) {
		for range waits {
			spent := turns{}
			for d.yields(&spent) { //nolint:revive // as often as it will
			}
			all += spent.all
		}
		return all
	}
	turns(1000)
	require.Less(t, turns(10_000), 200)
	d.idleInARow, d.sleepsAtOnce = 0, 0 // as after a turn that was of use
	require.Positive(t, turns(1))
}

// A turn that takes long is followed by a time in which there is none.
func TestWhoLetsOthersRunForLongGoesOnForLonger(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer crowded()()
	const long = 5 * time.Millisecond
	var s Socket
	go func() {
		for begin := Now(); time.Duration(Now()-begin) < long; { //nolint:revive // it computes
		}
	}()
	most := time.Duration(0)
	for begin := Now(); time.Duration(Now()-begin) < 2*long; { // it may have its time in pieces
		s.shares()
		most = max(most, time.Duration(s.shareUntil-Now()))
	}
	require.Greater(t, most, long/20)
}

// crowded has the crowd be here, until what it returns is called.
func crowded() (end func()) {
	const others = 1000
	everybody.word.Add(others)
	everybody.procs.Store(int64(runtime.GOMAXPROCS(0)))
	everybody.quiet.Store(0)
	return func() { everybody.word.Add(^uint64(others - 1)) }
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
