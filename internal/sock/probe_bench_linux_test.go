package sock

import (
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The cost of Probe in multiples of its one system call, on a socket with nothing to
// receive, in turns.
func BenchmarkProbe_BesideTheBareSystemCall(b *testing.B) {
	s, _ := pair(b, unix.SOCK_STREAM)
	const batch = 1000
	p := make([]byte, 1)
	ratios := make([]float64, 0, 1000)
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		for range batch {
			if s.Probe() != Idle {
				b.Fatal("data is queued")
			}
		}
		ours := time.Since(begin)
		begin = time.Now()
		for range batch {
			_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&p[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
			if errno != unix.EAGAIN {
				b.Fatal(errno)
			}
		}
		ratios = append(ratios, float64(ours)/float64(time.Since(begin)))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "times-the-call")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*2*batch), "ns/call")
	b.ReportMetric(0, "ns/op")
}

func TestProbe_AllocatesNothing(t *testing.T) {
	s, _ := pair(t, unix.SOCK_STREAM)
	require.Zero(t, testing.AllocsPerRun(1000, func() { s.Probe() }))
}
