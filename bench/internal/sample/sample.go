// Package sample has what is measured: a Spec says what, a Sample is what came of it.
package sample

import (
	"runtime"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Spec is one round of one peer at one kind of work, in a process of its own.
type Spec struct {
	Work    string // as package worker knows it
	Peer    string // who does it: "net", "client", "C", …
	Network string // tcp, unix or udp
	Address string // of the server

	Request, Reply int           // bytes
	Conns          int           // how many at once
	Busy           string        // what else the process computes: see worker.Busy
	BusyCount      int           // in how many goroutines
	Procs          int           // GOMAXPROCS; the number of processors if 0
	Beside         int           // other processes that compute meanwhile
	Rate           int           // requests a second, for work that is asked for at a rate
	Warmup, Length time.Duration // of the round
	Count          int           // turns on each connection, instead of Length
	Batch          int           // operations in a turn, whose time alone is recorded
	Files          []string      // that the work needs: see there
}

// A Sample is what a round has measured.
type Sample struct {
	Ops      int64
	Elapsed  time.Duration // from the end of the warm-up until the last operation's
	User     time.Duration // CPU time of the process, meanwhile
	System   time.Duration
	Allocs   uint64 // objects
	Bytes    uint64 // allocated
	Computed int64  // what the goroutines that compute got done, in units of their own
	Late     int64  // operations that were to be done and were not begun in time, for work at a rate

	Threads int   // of the process, for waiting clients
	RSS     int64 // bytes

	// Latency is a histogram in nanoseconds with 2 significant digits, in the base64
	// form that HdrHistogram's tools read.
	Latency string `json:",omitempty"`
}

// NewHistogram is for times up to a minute.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Nanoseconds(), 2)
}

// Record notes how long an operation took.
func Record(h *hdrhistogram.Histogram, took time.Duration) {
	_ = h.RecordValue(min(max(took.Nanoseconds(), 1), time.Minute.Nanoseconds())) // within its range
}

// SetLatency takes over a histogram.
func (s *Sample) SetLatency(h *hdrhistogram.Histogram) error {
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	s.Latency = string(b)
	return err
}

// Histogram is the distribution of the operations' times; empty if there is none.
func (s *Sample) Histogram() (*hdrhistogram.Histogram, error) {
	if s.Latency == "" {
		return NewHistogram(), nil
	}
	return hdrhistogram.Decode([]byte(s.Latency))
}

// A Meter measures what a process uses.
type Meter struct {
	began  time.Time
	usage  syscall.Rusage
	memory runtime.MemStats
}

// Start begins to measure.
func Start() *Meter {
	m := new(Meter)
	runtime.ReadMemStats(&m.memory)
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &m.usage) // of oneself it always can
	m.began = time.Now()
	return m
}

// Stop writes into a sample what was used since Start.
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
