package worker

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
	"github.com/lesismal/nbio"
	nbiolog "github.com/lesismal/nbio/logging"
	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"
)

// An eventPeer starts what all connections share, and returns a function that connects one and
// passes what it receives to an echo.
type eventPeer func(s *sample.Spec) (connect func(*echo) error, err error)

var eventPeers = map[string]eventPeer{
	"net, a goroutine each": goroutineEach,
	"gnet":                  overGnet,
	"nbio":                  overNbio,
	"client.AsyncClient":    overAsyncClient,
}

// echoes is what all connections of a round share.
type echoes struct {
	spec    *sample.Spec
	message []byte
	phase   atomic.Int32 // warming, measuring or over
	active  sync.WaitGroup
	failed  chan error
}

// An echo is the state of one connection, which sends a message and receives it again,
// repeatedly. An idle one only waits.
type echo struct {
	all   *echoes
	send  func([]byte) error // called by received
	first func([]byte) error // called by another goroutine; nil: send

	times    *hdrhistogram.Histogram
	start    time.Time
	measured bool
	got, n   int
}

func (e *echo) begin(send func([]byte) error) {
	e.measured = e.all.phase.Load() == measuring
	e.start = time.Now()
	if err := send(e.all.message); err != nil {
		e.all.fail(err)
	}
}

// received is told of n bytes. Calls of one connection do not overlap.
func (e *echo) received(n int) {
	e.got += n
	if e.got < len(e.all.message) {
		return
	}
	e.got = 0
	e.n++
	if e.measured {
		sample.Record(e.times, time.Since(e.start))
	}
	if e.n == e.all.spec.Count || e.all.phase.Load() == over {
		e.all.active.Done()
		return
	}
	e.begin(e.send)
}

// closed is told that a connection ended; none should.
func (all *echoes) closed(err error) { all.fail(fmt.Errorf("a connection was closed: %w", err)) }

func (all *echoes) fail(err error) {
	select {
	case all.failed <- err:
	default:
	}
}

// events connects Conns connections and measures their memory while all of them are idle. Then
// Active of them make round trips.
func events(s *sample.Spec) (*sample.Sample, error) {
	peer := eventPeers[s.Peer]
	if peer == nil {
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	connect, err := peer(s)
	if err != nil {
		return nil, err
	}
	all := &echoes{spec: s, message: make([]byte, s.Request), failed: make(chan error, 1)}
	conns := make([]*echo, s.Conns)
	memory, rss, err := inUse()
	if err != nil {
		return nil, err
	}
	for i := range conns {
		conns[i] = &echo{all: all}
		if err := connect(conns[i]); err != nil {
			return nil, err
		}
	}
	if _, err := settled(all.failed); err != nil {
		return nil, err
	}
	var result sample.Sample
	if result.Memory, result.RSS, err = inUse(); err != nil {
		return nil, err
	}
	result.Memory -= memory
	result.RSS -= rss
	if err := all.measure(conns, &result); err != nil {
		return nil, err
	}
	if result.Threads, _, err = status(); err != nil {
		return nil, err
	}
	runtime.KeepAlive(conns)
	return &result, nil
}

// measure has Active connections, spread over all, make round trips.
func (all *echoes) measure(conns []*echo, result *sample.Sample) error {
	s := all.spec
	active := make([]*echo, cmp.Or(s.Active, s.Conns))
	for i := range active {
		active[i] = conns[i*len(conns)/len(active)]
		active[i].times = sample.NewHistogram()
	}
	counting := s.Count > 0
	if counting {
		all.phase.Store(measuring)
	}
	all.active.Add(len(active))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { all.active.Wait(); cancel() }()
	for _, e := range active {
		if e.first != nil {
			e.begin(e.first)
		} else {
			e.begin(e.send)
		}
	}
	if !counting {
		sleep(ctx, s.Warmup)
	}
	meter := sample.Start()
	if !counting {
		all.phase.Store(measuring)
		sleep(ctx, s.Length)
		all.phase.Store(over)
	}
	select {
	case <-ctx.Done():
	case err := <-all.failed:
		return err
	}
	meter.Stop(result)
	sum := sample.NewHistogram()
	for _, e := range active {
		sum.Merge(e.times)
	}
	result.Ops = sum.TotalCount()
	return result.SetLatency(sum)
}

// inUse returns the memory in use by the heap and stacks, and the resident memory of the
// process.
func inUse() (memory, rss int64, err error) {
	debug.FreeOSMemory() // collects garbage, too
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	_, rss, err = status()
	return int64(m.HeapInuse + m.StackInuse), rss, err
}

// The connections stay open until the process exits.

func goroutineEach(s *sample.Spec) (func(*echo) error, error) {
	return func(e *echo) error {
		c, err := dialWhenQueued(s)
		if err != nil {
			return err
		}
		e.send = func(p []byte) error { _, err := c.Write(p); return err }
		go func() {
			buf := make([]byte, len(e.all.message))
			for {
				n, err := c.Read(buf)
				if err != nil {
					e.all.closed(err)
					return
				}
				e.received(n)
			}
		}()
		return nil
	}, nil
}

func overAsyncClient(s *sample.Spec) (func(*echo) error, error) {
	return func(e *echo) error {
		connected := make(chan error, 1)
		c, err := client.DialAsync(context.Background(), s.Network, s.Address, nil, client.AsyncConfig{
			OnConnect: func(*client.AsyncClient) { connected <- nil },
			OnReceive: func(_ *client.AsyncClient, p []byte) { e.received(len(p)) },
			OnError:   func(_ *client.AsyncClient, err error) { connected <- err },
			OnClose:   func(_ *client.AsyncClient, err error) { e.all.closed(err) },
		})
		if err != nil {
			return err
		}
		e.send = c.Send
		return <-connected
	}, nil
}

type gnetHandler struct{ gnet.BuiltinEventEngine }

func (*gnetHandler) OnTraffic(c gnet.Conn) gnet.Action {
	e := c.Context().(*echo)
	p, err := c.Next(-1)
	if err != nil {
		e.all.fail(err)
		return gnet.Close
	}
	e.received(len(p))
	return gnet.None
}

func (*gnetHandler) OnClose(c gnet.Conn, err error) gnet.Action {
	c.Context().(*echo).all.closed(err)
	return gnet.None
}

func overGnet(s *sample.Spec) (func(*echo) error, error) {
	events, err := gnet.NewClient(new(gnetHandler), gnet.WithMulticore(true), gnet.WithLogger(zap.NewNop().Sugar()))
	if err != nil {
		return nil, err
	}
	return func(e *echo) error {
		raw, err := dialWhenQueued(s)
		if err != nil {
			return err
		}
		c, err := events.EnrollContext(raw, e)
		if err != nil {
			return err
		}
		// Write is for the event loop only.
		e.send = func(p []byte) error { _, err := c.Write(p); return err }
		e.first = func(p []byte) error { return c.AsyncWrite(p, nil) }
		return nil
	}, events.Start()
}

func overNbio(s *sample.Spec) (func(*echo) error, error) {
	nbiolog.SetLevel(nbiolog.LevelError)
	events := nbio.NewEngine(nbio.Config{})
	events.OnData(func(c *nbio.Conn, p []byte) { c.Session().(*echo).received(len(p)) })
	events.OnClose(func(c *nbio.Conn, err error) { c.Session().(*echo).all.closed(err) })
	return func(e *echo) error {
		raw, err := dialWhenQueued(s)
		if err != nil {
			return err
		}
		c, err := nbio.NBConn(raw)
		if err != nil {
			return err
		}
		c.SetSession(e)
		e.send = func(p []byte) error { _, err := c.Write(p); return err }
		_, err = events.AddConn(c)
		return err
	}, events.Start()
}

// dialWhenQueued connects with package net, and waits while the listen queue of a Unix socket is
// full.
func dialWhenQueued(s *sample.Spec) (net.Conn, error) {
	for {
		c, err := net.Dial(s.Network, s.Address)
		if !isQueueFull(err) {
			return c, err
		}
		nanosleep(time.Millisecond)
	}
}
