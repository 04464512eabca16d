package fastcgi

import (
	"bytes"
	"encoding/binary"
	"flag"
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

// testTimeout is longer than anything that should happen in a test takes.
const testTimeout = 20 * time.Second

// TestMain runs more tests at the same time than there are CPUs, unless -parallel is set:
// most of them wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		_ = parallel.Value.Set("8")
	}
	testleak.Main(m)
}

// An appRequest is a request that a test application has received.
type appRequest struct {
	conn   net.Conn
	number int    // of the request on its connection
	id     uint16 // of the request
	params map[string]string
	body   []byte
}

// write writes pieces of a response. Records of firstRequestID get the request's ID.
func (a *appRequest) write(_ testing.TB, pieces ...[]byte) {
	for _, p := range pieces {
		if _, err := a.conn.Write(a.withID(p)); err != nil {
			return // the client may have closed the connection
		}
	}
}

func (a *appRequest) withID(p []byte) []byte {
	p = bytes.Clone(p)
	for rest := p; len(rest) >= headerLen; {
		if binary.BigEndian.Uint16(rest[2:]) == firstRequestID {
			binary.BigEndian.PutUint16(rest[2:], a.id)
		}
		rest = rest[min(recordLen(rest), len(rest)):]
	}
	return p
}

// okResponse returns the records of a complete response.
func okResponse(body string) [][]byte {
	return [][]byte{
		appendStream(nil, typeStdout, []byte("Content-Type: text/plain\r\n\r\n"+body)),
		appendRecord(nil, typeStdout, firstRequestID, nil), endRecord(0, 0),
	}
}

func endRecord(app uint32, protocol byte) []byte {
	return appendRecord(nil, typeEndRequest, firstRequestID, append(binary.BigEndian.AppendUint32(nil, app), protocol, 0, 0, 0))
}

// readRecord parses a record without the package's own parser.
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

// newApplication starts a test application and returns a Client of it. It calls answer for
// each request, and closes the connection when answer returns false.
func newApplication(t testing.TB, answer func(a *appRequest) bool) *Client {
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
					a := &appRequest{conn: conn, number: n}
					if a.read() != nil || !answer(a) {
						return
					}
				}
			})
		}
	})
	cl := &Client{Network: "unix", Address: ln.Addr().String(), IdleTimeout: testTimeout}
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

func (a *appRequest) read() error {
	var pairs []byte
	for {
		typ, id, content, err := readRecord(a.conn)
		if err != nil {
			return err
		}
		a.id = id
		switch {
		case typ == typeParams && len(content) > 0:
			pairs = append(pairs, content...)
		case typ == typeParams:
			if a.params, err = parsePairs(pairs); err != nil {
				return err
			}
			if a.params["STREAM"]+a.params["HTTP_STREAM"] != "" {
				return nil // the test reads the body itself
			}
		case typ == typeStdin && len(content) > 0:
			a.body = append(a.body, content...)
		case typ == typeStdin:
			return nil
		}
	}
}

// newNetHTTPFCGI starts an application of net/http/fcgi and returns a Client of it.
func newNetHTTPFCGI(t testing.TB, h http.Handler) *Client {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	listener := &trackingListener{Listener: ln}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = fcgi.Serve(listener, h)
	}()
	cl := &Client{Network: "unix", Address: ln.Addr().String(), IdleTimeout: testTimeout}
	t.Cleanup(func() {
		_ = cl.Close()
		_ = ln.Close()
		listener.closeAll()
		<-served
	})
	return cl
}

// A trackingListener can close the connections that it has accepted, which fcgi.Serve does
// not.
type trackingListener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (l *trackingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
	}
	return conn, err
}

func (l *trackingListener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}
