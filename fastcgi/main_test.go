package fastcgi

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testleak"
	"github.com/stretchr/testify/require"
)

const enough = 20 * time.Second

func TestMain(m *testing.M) { testleak.Main(m) }

// asked is a request as an application that is only a test gets it.
type asked struct {
	conn   net.Conn
	number int    // of the request on its connection
	id     uint16 // of the request
	params map[string]string
	body   []byte
}

// write writes pieces of an answer: records of requestID get the id of the request.
func (a *asked) write(_ testing.TB, pieces ...[]byte) {
	for _, p := range pieces {
		if _, err := a.conn.Write(a.own(p)); err != nil {
			return // the client may be gone
		}
	}
}

func (a *asked) own(p []byte) []byte {
	p = bytes.Clone(p)
	for rest := p; len(rest) >= headerLen; {
		if binary.BigEndian.Uint16(rest[2:]) == requestID {
			binary.BigEndian.PutUint16(rest[2:], a.id)
		}
		n, _ := framing.Func(rest)
		rest = rest[min(n, len(rest)):]
	}
	return p
}

// out is a response that is whole.
func out(body string) [][]byte {
	return [][]byte{
		appendStream(nil, stdout, []byte("Content-Type: text/plain\r\n\r\n"+body)),
		appendRecord(nil, stdout, requestID, nil), end(0, 0),
	}
}

func end(app uint32, protocol byte) []byte {
	return appendRecord(nil, endRequest, requestID, append(binary.BigEndian.AppendUint32(nil, app), protocol, 0, 0, 0))
}

// readRecord is a second opinion of what a record is.
func readRecord(r io.Reader) (recordType, uint16, []byte, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, 0, nil, err
	}
	content := make([]byte, binary.BigEndian.Uint16(h[4:])+uint16(h[6]))
	if _, err := io.ReadFull(r, content); err != nil {
		return 0, 0, nil, err
	}
	return recordType(h[1]), binary.BigEndian.Uint16(h[2:]), content[:binary.BigEndian.Uint16(h[4:])], nil
}

// application answers each request by a function, which has the connection until it
// returns false.
func application(t testing.TB, answer func(a *asked) bool) *Client {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				for n := 0; ; n++ {
					a := &asked{conn: conn, number: n}
					if a.read() != nil || !answer(a) {
						return
					}
				}
			})
		}
	})
	cl := &Client{Network: "unix", Address: ln.Addr().String(), IdleTimeout: enough}
	t.Cleanup(func() {
		_ = cl.Close()
		_ = ln.Close()
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return cl
}

func (a *asked) read() error {
	var pairs []byte
	for {
		typ, id, content, err := readRecord(a.conn)
		if err != nil {
			return err
		}
		a.id = id
		switch {
		case typ == params && len(content) > 0:
			pairs = append(pairs, content...)
		case typ == params:
			if a.params, err = parsePairs(pairs); err != nil {
				return err
			}
			if a.params["STREAM"]+a.params["HTTP_STREAM"] != "" {
				return nil // the test reads the body itself
			}
		case typ == stdin && len(content) > 0:
			a.body = append(a.body, content...)
		case typ == stdin:
			return nil
		}
	}
}

// goResponder is the standard library's server.
func goResponder(t testing.TB, h http.Handler) *Client {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	kept := &keptListener{Listener: ln}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = fcgi.Serve(kept, h)
	}()
	cl := &Client{Network: "unix", Address: ln.Addr().String(), IdleTimeout: enough}
	t.Cleanup(func() {
		_ = cl.Close()
		_ = ln.Close()
		kept.closeAll()
		<-served
	})
	return cl
}

// A keptListener can close what it has accepted: fcgi.Serve does not.
type keptListener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (l *keptListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
	}
	return conn, err
}

func (l *keptListener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}
