package client_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// A program is a random sequence of operations on both ends of a stream. Each end sends the
// numbers 0, 1, 2, … as bytes, so that what the other end has received is a prefix of what was
// sent, or a part was lost, repeated or moved. The model knows how long the prefix must be, and
// which ends of the client are possible.
type program struct {
	seed uint64
	rnd  *rand.Rand
	a    *client.AsyncClient
	peer net.Conn

	toClient, toPeer int   // bytes that the peer and the client have sent
	accepted         int64 // bytes of sends of the client that returned nil
	paused           bool
	resets           bool // the peer has reset
	peerEnded        bool // or has ended its direction, or all
	peerClosed       bool // and does not receive any more
	closed           bool // Close was called
	finished         bool // Finish
	writeClosed      bool // CloseWrite

	mu      sync.Mutex
	faults  []string
	got     int // bytes that the client has received
	over    bool
	inside  bool
	ended   chan error
	wasFull bool

	read chan int // the peer has received so many bytes, at the end of its stream or a failure
}

const asyncModelSeed = "CLIENT_TEST_SEED"

// TestAsyncModel_RandomPrograms runs 500 programs, 10,000 with CLIENT_LOAD=full. A violation
// prints the program's seed, which CLIENT_TEST_SEED runs again.
func TestAsyncModel_RandomPrograms(t *testing.T) {
	s := listenTLS(t, "tcp", nil)
	trust := s.trust(t)
	unixSockets := listen(t, "unix")
	if seed, err := strconv.ParseUint(os.Getenv(asyncModelSeed), 10, 64); err == nil {
		runProgram(t, seed, s, trust, unixSockets)
		return
	}
	n := 500
	if os.Getenv("CLIENT_LOAD") == "full" {
		n = 10_000
	}
	for range n {
		runProgram(t, rand.Uint64(), s, trust, unixSockets)
		if t.Failed() {
			return
		}
	}
}

func runProgram(t *testing.T, seed uint64, s *tlsServer, trust *client.TLSOptions, unixSockets net.Listener) {
	p := &program{seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), ended: make(chan error, 1), read: make(chan int, 1)}
	var ln = s.Listener
	if p.rnd.IntN(3) == 0 {
		ln = unixSockets
	}
	opts := client.Options{SendTimeout: testTimeout}
	if p.rnd.IntN(2) == 0 {
		opts.SendBuffer = 8 << 10
	}
	c, err := client.Dial(ln.Addr().Network(), ln.Addr().String(), &opts)
	require.NoError(t, err)
	p.peer, err = ln.Accept()
	require.NoError(t, err)
	raw := p.peer
	defer raw.Close()
	p.a, err = c.Async(client.AsyncConfig{
		OnConnect:     func(*client.AsyncClient) { p.callback("connect", func() {}) },
		OnReceive:     func(_ *client.AsyncClient, b []byte) { p.callback("receive", func() { p.receive(b) }) },
		OnBufferFull:  func(*client.AsyncClient) { p.callback("full", func() { p.level(true) }) },
		OnBufferEmpty: func(*client.AsyncClient) { p.callback("empty", func() { p.level(false) }) },
		OnClose: func(_ *client.AsyncClient, err error) {
			p.callback("close", func() { p.over = true })
			p.ended <- err
		},
		MaxQueue: 200_000, HighWatermark: 50_000, LowWatermark: 10_000,
	})
	require.NoError(t, err)
	if p.rnd.IntN(3) == 0 {
		p.startTLS(s, trust)
	}
	go p.readPeer(p.peer)
	for range p.rnd.IntN(25) {
		p.step(raw)
	}
	p.finish()
	p.check()
	if len(p.faults) > 0 {
		t.Errorf("seed %d (set %s to run it again): %v", seed, asyncModelSeed, p.faults)
	}
}

func (p *program) fault(format string, args ...any) {
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

func (p *program) callback(name string, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inside {
		p.fault("%s overlaps", name)
	}
	if p.over {
		p.fault("%s after OnClose", name)
	}
	p.inside = true
	p.mu.Unlock()
	if p.seed%3 == 0 {
		time.Sleep(time.Duration(p.seed%100) * time.Microsecond)
	}
	p.mu.Lock()
	f()
	p.inside = false
}

func (p *program) level(full bool) {
	if p.wasFull == full {
		p.fault("full and empty do not alternate")
	}
	p.wasFull = full
}

func (p *program) receive(b []byte) {
	for _, x := range b {
		if x != byte(p.got) {
			p.fault("byte %d is %d", p.got, x)
			return
		}
		p.got++
	}
}

// counting are the n bytes of a stream from the one with number from on.
func counting(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(from + i)
	}
	return b
}

func (p *program) readPeer(peer net.Conn) {
	got := 0
	b := make([]byte, 20_000)
	for {
		n, err := peer.Read(b)
		if !bytes.Equal(b[:n], counting(got, n)) {
			p.mu.Lock()
			p.fault("the peer got wrong bytes from %d on", got)
			p.mu.Unlock()
		}
		if got += n; err != nil {
			p.read <- got
			return
		}
	}
}

func (p *program) startTLS(s *tlsServer, trust *client.TLSOptions) {
	secured := make(chan struct{})
	if p.rnd.IntN(2) == 0 {
		p.send(p.rnd.IntN(10_000)) // before, in plain text
	}
	plain := p.toPeer
	if err := p.a.StartTLS(trust, func(*client.AsyncClient) { p.callback("secured", func() {}); close(secured) }); err != nil {
		p.fault("StartTLS: %v", err)
		return
	}
	p.send(p.rnd.IntN(100_000)) // queued behind the handshake
	b := make([]byte, plain)
	if _, err := io.ReadFull(p.peer, b); err != nil || !bytes.Equal(b, counting(0, plain)) {
		p.fault("plain text: %v", err)
	}
	p.accepted -= int64(plain)
	conn := tls.Server(p.peer, s.config)
	p.peer = shifted{conn, byte(plain)}
	if err := conn.Handshake(); err != nil {
		p.fault("the peer's handshake: %v", err)
	}
	select {
	case <-secured:
	case <-time.After(testTimeout):
		p.fault("not secured")
	}
}

// step makes one random operation.
func (p *program) step(raw net.Conn) {
	switch p.rnd.IntN(14) {
	case 0, 1, 2, 3:
		p.send(1 + p.rnd.IntN(40_000))
	case 4, 5, 6:
		if !p.peerEnded {
			n := 1 + p.rnd.IntN(20_000)
			_ = p.peer.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			sent, _ := p.peer.Write(counting(p.toClient, n))
			p.toClient += sent
			if sent < n { // over TLS the peer can write no more
				p.peerEnded = true
			}
		}
	case 7:
		p.a.Pause()
		p.paused = true
	case 8, 9:
		p.a.Resume()
		p.paused = false
	case 10:
		time.Sleep(time.Duration(p.rnd.IntN(2000)) * time.Microsecond)
	case 11:
		if p.rnd.IntN(3) == 0 && p.a.CloseWrite() == nil {
			p.writeClosed = true
		}
	case 12:
		if p.rnd.IntN(3) == 0 && !p.peerEnded {
			p.peerEnded = true
			_ = p.peer.(interface{ CloseWrite() error }).CloseWrite()
		}
	case 13:
		switch p.rnd.IntN(8) {
		case 0:
			if p.a.Close() == nil {
				p.closed = true
			}
		case 1:
			if p.a.Finish() == nil {
				p.finished = true
			}
		case 2:
			p.peerEnded, p.peerClosed, p.resets = true, true, true
			if tcp, ok := raw.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = raw.Close()
		}
	}
}

func (p *program) send(n int) {
	err := p.a.Send(counting(p.toPeer, n))
	switch {
	case err == nil:
		p.toPeer += n
		p.accepted += int64(n)
	case errors.Is(err, client.ErrQueueFull):
	}
}

// finish ends the program in order, unless it has ended itself.
func (p *program) finish() {
	if p.rnd.IntN(2) == 0 {
		p.a.Resume()
		p.paused = false
	}
	if p.a.Finish() == nil {
		p.finished = true
	}
}

func (p *program) check() {
	var err error
	select {
	case err = <-p.ended:
	case <-time.After(2 * testTimeout):
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fault("no OnClose")
		return
	}
	<-p.a.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	var unsent *client.UnsentError
	dropped := errors.As(err, &unsent)
	switch {
	case err == nil && !p.closed && !p.finished:
		p.fault("OnClose(nil) without Close and Finish")
	case errors.Is(err, io.EOF) && !p.peerEnded:
		p.fault("io.EOF before the peer's end")
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.fault("%v", err)
	case err != nil && !p.closed && !p.peerEnded:
		p.fault("%v", err)
	}
	if p.got > p.toClient {
		p.fault("%d bytes received of %d", p.got, p.toClient)
	}
	if errors.Is(err, io.EOF) && p.got < p.toClient {
		p.fault("%d bytes received of %d before io.EOF", p.got, p.toClient)
	}
	if p.resets {
		return // what is in the kernel's buffers is lost
	}
	var read int
	p.mu.Unlock()
	select {
	case read = <-p.read:
		p.mu.Lock()
	case <-time.After(testTimeout):
		p.mu.Lock()
		p.fault("the client's socket is open")
		return
	}
	sent := p.accepted
	if dropped {
		sent -= unsent.Bytes
	}
	// After Close the kernel may drop what it has: there may be bytes unread.
	if int64(read) > sent || int64(read) < sent && !p.closed {
		p.fault("the peer has %d bytes of %d (%v)", read, sent, err)
	}
}

// A shifted is a connection whose bytes begin with another number.
type shifted struct {
	*tls.Conn
	by byte
}

func (s shifted) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	for i := range p[:n] {
		p[i] -= s.by
	}
	return n, err
}
