package worker

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blocksock/client/bench/internal/sample"
)

// These are the load generators for the compared web servers. They are not compared.

func httpClient(n int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxConnsPerHost: n, MaxIdleConnsPerHost: n, DisableCompression: true},
		Timeout:   time.Minute,
	}
}

// load requests a page on Conns connections, each as fast as the responses arrive.
func load(s *sample.Spec) (*sample.Sample, error) {
	web := httpClient(conns(s))
	return measure(s, same(s, func() error { return get(web, "http://"+s.Address+"/hello.php") }))
}

// loadAtRate requests a page Rate times per second, whether or not responses arrive. The time of
// a response counts from when its request was due, so that a slow server gets as many requests.
func loadAtRate(s *sample.Spec) (*sample.Sample, error) {
	const maxInFlight = 256 // a request that is due beyond that is late
	web := httpClient(maxInFlight)
	url := "http://" + s.Address + "/"
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		h        = sample.NewHistogram()
		inFlight = make(chan struct{}, maxInFlight)
		late     atomic.Int64
		failed   = make(chan error, 1)
		gap      = time.Second / time.Duration(s.Rate)
		meter    *sample.Meter
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
		case inFlight <- struct{}{}:
		default:
			late.Add(1)
			continue
		}
		wg.Go(func() {
			err := get(web, url)
			took := time.Since(due)
			<-inFlight
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
