package worker

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blocksock/client/bench/internal/sample"
)

// These two are who asks a web server that is compared; nothing of theirs is.

func browser(n int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxConnsPerHost: n, MaxIdleConnsPerHost: n, DisableCompression: true},
		Timeout:   time.Minute,
	}
}

// load asks Conns at once for a page, as fast as the answers come.
func load(s *sample.Spec) (*sample.Sample, error) {
	web := browser(conns(s))
	return measure(s, same(s, func() error { return get(web, "http://"+s.Address+"/hello.php") }))
}

// loadAtRate asks for a page Rate times a second, whether the answers come or not, and
// counts each one's time from when it was due: who is slow does not get less to do.
func loadAtRate(s *sample.Spec) (*sample.Sample, error) {
	const most = 256 // at once; who is due beyond that is late
	web := browser(most)
	url := "http://" + s.Address + "/"
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		h      = sample.NewHistogram()
		places = make(chan struct{}, most)
		late   atomic.Int64
		failed = make(chan error, 1)
		gap    = time.Second / time.Duration(s.Rate)
		meter  *sample.Meter
	)
	begin := time.Now()
	from, until := begin.Add(s.Warmup), begin.Add(s.Warmup+s.Length)
	for due := begin; due.Before(until); due = due.Add(gap) {
		if meter == nil && !due.Before(from) {
			meter = sample.Start()
		}
		if wait := time.Until(due); wait > 0 {
			nanosleep(wait)
		}
		select {
		case places <- struct{}{}:
		default:
			late.Add(1)
			continue
		}
		wg.Go(func() {
			err := get(web, url)
			took := time.Since(due)
			<-places
			if err != nil {
				select {
				case failed <- err:
				default:
				}
				return
			}
			if !due.Before(from) {
				mu.Lock()
				sample.Record(h, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	var result sample.Sample
	meter.Stop(&result)
	select {
	case err := <-failed:
		return nil, err
	default:
	}
	result.Ops, result.Late = h.TotalCount(), late.Load()
	return &result, result.SetLatency(h)
}
