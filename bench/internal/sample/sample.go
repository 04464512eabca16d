// Package sample defines a round: its Spec and its measurement, a Sample.
package sample

import (
	"runtime"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Spec describes one round of one peer.
type Spec struct {
	Work    string // a key of package worker's works
	Peer    string // "net", "client", "C", …
	Network string // tcp, unix or udp
	Address string // of the server

	Request, Reply int           // bytes
	Conns          int           // connections, or goroutines of a pool
	Active         int           // connections that make round trips, for Work "events"; 0: all
	Busy           string        // the kind of computing in the same process: see worker.Busy
	BusyCount      int           // computing goroutines
	Procs          int           // GOMAXPROCS; the number of processors if 0
	Beside         int           // computing processes beside this one
	Rate           int           // requests per second, for Work "rate"
	Warmup, Length time.Duration // of the round
	Count          int           // turns of each connection, instead of Length; 0: not limited
	Batch          int           // operations per turn; one time is recorded for a turn
	Files          []string      // paths that the work needs: see there
}

// A Sample is the measurement of a round.
type Sample struct {
	Ops      int64
	Elapsed  time.Duration // from the end of the warm-up to the end of the last operation
	User     time.Duration // CPU time of the process during Elapsed
	System   time.Duration
	Allocs   uint64 // objects
	Bytes    uint64 // allocated
	Computed int64  // work of the computing goroutines, in units of the kind
	Late     int64  // requests that were due and not sent, for Work "rate"

	Threads int   // of the process, for Work "waiting" and "events"
	Memory  int64 // bytes of the heap and stacks that idle or waiting connections use
	RSS     int64 // resident bytes of them

	// Latency is a histogram in nanoseconds with two significant digits, in HdrHistogram's
	// base64 format.
	Latency string `json:",omitempty"`
}

// NewHistogram returns a histogram for times of up to a minute.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Nanoseconds(), 2)
}

// Record adds the time of an operation. Times above a minute count as a minute.
func Record(h *hdrhistogram.Histogram, took time.Duration) {
	_ = h.RecordValue(min(max(took.Nanoseconds(), 1), time.Minute.Nanoseconds())) // cannot fail within the range
}

// SetLatency encodes a histogram.
func (s *Sample) SetLatency(h *hdrhistogram.Histogram) error {
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	s.Latency = string(b)
	return err
}

// Histogram decodes Latency. It returns an empty histogram if there is none.
func (s *Sample) Histogram() (*hdrhistogram.Histogram, error) {
	if s.Latency == "" {
		return NewHistogram(), nil
	}
	return hdrhistogram.Decode([]byte(s.Latency))
}

// A Meter measures the resources that the process uses.
type Meter struct {
	began  time.Time
	usage  syscall.Rusage
	memory runtime.MemStats
}

// Start starts a Meter.
func Start() *Meter {
	m := new(Meter)
	runtime.ReadMemStats(&m.memory)
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &m.usage) // cannot fail for RUSAGE_SELF
	m.began = time.Now()
	return m
}

// Stop stores the resources used since Start in a sample.
func (m *Meter) Stop(s *Sample) {
	s.Elapsed = time.Since(m.began)
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	s.User = time.Duration(usage.Utime.Nano() - m.usage.Utime.Nano())
	s.System = time.Duration(usage.Stime.Nano() - m.usage.Stime.Nano())
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s.Allocs = memory.Mallocs - m.memory.Mallocs
	s.Bytes = memory.TotalAlloc - m.memory.TotalAlloc
}
