package web

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// An app is what nginx has behind it, for what files cannot do: answers that are late, or
// never come.
type app struct {
	socket  string // its path
	arrived chan context.Context
	over    chan struct{}
}

// startApp starts an app, until the test's end. A request to /app/never, /app/half or
// /app/deaf gives its context to arrived, which the test has to take.
func startApp(t *testing.T) *app {
	t.Helper()
	dir, err := os.MkdirTemp("", "app") // on a short path, which a socket's has to be
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &app{socket: filepath.Join(dir, "s"), arrived: make(chan context.Context), over: make(chan struct{})}
	ln, err := net.Listen("unix", a.socket)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/app/echo", echo)
	mux.HandleFunc("/app/never", a.never)
	mux.HandleFunc("/app/half", a.half)
	mux.HandleFunc("/app/deaf", a.deaf)
	mux.HandleFunc("/app/upgrade", upgrade)
	server := &http.Server{Handler: mux}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		close(a.over)
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return a
}

// echo sends the body back while it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // HTTP/1.1 would have the body come first
	_ = rc.Flush()            // an error is the next Write's too
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Body.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
		_ = rc.Flush()
	}
}

// never does not answer.
func (a *app) never(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // until then the server does not see who goes
	a.here(r)
}

// half answers half of what it promises.
func (a *app) half(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "20")
	_, _ = w.Write([]byte("0123456789"))
	_ = http.NewResponseController(w).Flush()
	a.here(r)
}

// deaf neither answers nor reads what it is sent.
func (a *app) deaf(_ http.ResponseWriter, r *http.Request) { a.here(r) }

// here says that a request has come, and stays until it is given up. Who does not read
// the body is not told of that, and stays until the app's end.
func (a *app) here(r *http.Request) {
	select {
	case a.arrived <- r.Context():
	case <-a.over:
	case <-r.Context().Done():
	}
	select {
	case <-a.over:
	case <-r.Context().Done():
	}
}

// upgrade changes to a protocol that sends everything back.
func upgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" {
		http.Error(w, "this is echo only", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if err != nil {
		return
	}
	_, _ = io.Copy(conn, buffered)
}
