package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A recordedTrace is a Trace that records the calls of all its functions.
type recordedTrace struct {
	client.Trace
	mu     sync.Mutex
	names  []string
	infos  []any
	onCall func(name string) // nil: nothing
}

func recordTrace() *recordedTrace {
	r := new(recordedTrace)
	v := reflect.ValueOf(&r.Trace).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		v.Field(i).Set(reflect.MakeFunc(v.Field(i).Type(), func(args []reflect.Value) []reflect.Value {
			r.mu.Lock()
			r.names = append(r.names, name)
			r.infos = append(r.infos, args[0].Interface())
			r.mu.Unlock()
			if r.onCall != nil {
				r.onCall(name)
			}
			return nil
		}))
	}
	return r
}

// calls returns the names of the functions called so far, in order.
func (r *recordedTrace) calls() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.names, " ")
}

func (r *recordedTrace) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names, r.infos = nil, nil
}

// called returns the arguments of all calls of one function.
func called[Info any](r *recordedTrace) (all []Info) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, info := range r.infos {
		if i, ok := info.(Info); ok {
			all = append(all, i)
		}
	}
	return all
}

// only returns the argument of the only call of one function.
func only[Info any](t testing.TB, r *recordedTrace) Info {
	t.Helper()
	all := called[Info](r)
	require.Len(t, all, 1)
	return all[0]
}

const (
	dnsCalls     = "DNSStart DNSDone "
	connectCalls = "ConnectStart ConnectDone "
	tlsCalls     = "TLSHandshakeStart TLSHandshakeDone"
)

// With tcp4 there is one query: of two, one can be answered late.
func TestTrace_DialOfAName(t *testing.T) {
	s, r := countedEcho(t, "tcp"), recordTrace()
	address := "host.test:" + portOf(t, s.Addr().String())
	c, err := client.Dial("tcp4", address, &client.Options{Trace: &r.Trace, Resolver: names(t, map[string][]string{"host.test.": {"127.0.0.1"}})})
	require.NoError(t, err)
	require.Equal(t, dnsCalls+connectCalls+"Connected", r.calls())
	require.Equal(t, client.DNSStartInfo{Host: "host.test"}, only[client.DNSStartInfo](t, r))
	dns := only[client.DNSDoneInfo](t, r)
	require.Positive(t, dns.Duration)
	require.Equal(t, client.DNSDoneInfo{Host: "host.test", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Duration: dns.Duration}, dns)
	require.Equal(t, client.ConnectStartInfo{Network: "tcp4", Addr: c.RemoteAddr()}, only[client.ConnectStartInfo](t, r))
	done := only[client.ConnectDoneInfo](t, r)
	require.Positive(t, done.Duration)
	require.Equal(t, client.ConnectDoneInfo{Network: "tcp4", Addr: c.RemoteAddr(), Duration: done.Duration}, done)
	conn := only[client.ConnectedInfo](t, r).Conn
	require.NotZero(t, conn.ID)
	require.Equal(t, client.ConnInfo{ID: conn.ID, Network: "tcp4", Address: address, Local: c.LocalAddr(), Remote: c.RemoteAddr()}, conn)

	r.reset()
	asks(t, c, "ping")
	asks(t, c, "ping")
	require.Equal(t, "GotFirstResponseByte", r.calls(), "only the first")
	require.Equal(t, conn, only[client.GotFirstResponseByteInfo](t, r).Conn)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.Equal(t, client.ClosedInfo{Conn: conn}, only[client.ClosedInfo](t, r))

	other, err := client.Dial("tcp", s.Addr().String(), &client.Options{Trace: &r.Trace})
	require.NoError(t, err)
	require.NoError(t, other.Close())
	require.NotEqual(t, conn.ID, called[client.ClosedInfo](r)[1].Conn.ID)
}

func TestTrace_EveryNetwork(t *testing.T) {
	for _, network := range allNetworks {
		t.Run(network, func(t *testing.T) {
			r := recordTrace()
			c := connectedTo(t, network, &client.Options{Trace: &r.Trace})
			require.NoError(t, c.Close())
			require.Equal(t, connectCalls+"Connected Closed", r.calls())
			require.Equal(t, c.RemoteAddr(), only[client.ClosedInfo](t, r).Conn.Remote)
		})
	}
}

func TestTrace_EveryReceiveMayBeTheFirst(t *testing.T) {
	for name, recv := range map[string]func(*client.Client) error{
		"Recv":       func(c *client.Client) error { _, err := c.Recv(make([]byte, 1), 0); return err },
		"Peek":       func(c *client.Client) error { _, err := c.Recv(make([]byte, 1), client.Peek); return err },
		"Read":       func(c *client.Client) error { _, err := c.Read(make([]byte, 1)); return err },
		"RecvPacket": func(c *client.Client) error { _, err := c.RecvPacket(); return err },
		"Packets": func(c *client.Client) error {
			for _, err := range c.Packets() {
				return err
			}
			return io.EOF
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := recordTrace()
			c, peer := stream(t, "tcp", &client.Options{Trace: &r.Trace, Framing: client.Delimiter{Delim: []byte("\n")}})
			r.reset()
			_, err := peer.Write([]byte("line\n"))
			require.NoError(t, err)
			require.NoError(t, recv(c))
			require.Equal(t, "GotFirstResponseByte", r.calls())
		})
	}
	for name, recv := range map[string]func(*client.Client) error{
		"RecvFrom":         func(c *client.Client) error { _, _, err := c.RecvFrom(make([]byte, 1), 0); return err },
		"RecvFromAddrPort": func(c *client.Client) error { _, _, err := c.RecvFromAddrPort(make([]byte, 1), 0); return err },
		"RecvBatch": func(c *client.Client) error {
			_, err := c.RecvBatch([]client.Datagram{{Buf: make([]byte, 1)}}, 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := recordTrace()
			c, peer := datagrams(t, "udp", &client.Options{Trace: &r.Trace})
			r.reset()
			_, err := peer.WriteTo(nil, c.LocalAddr()) // an empty datagram is an answer
			require.NoError(t, err)
			require.NoError(t, recv(c))
			require.Equal(t, "GotFirstResponseByte", r.calls())
		})
	}
}

func TestTrace_TLS(t *testing.T) {
	r := recordTrace()
	c, peer := secured(t, client.Options{Trace: &r.Trace})
	require.Equal(t, connectCalls+"Connected "+tlsCalls, r.calls())
	conn := only[client.ConnectedInfo](t, r).Conn
	require.Equal(t, client.TLSHandshakeStartInfo{Conn: conn, ServerName: "localhost"}, only[client.TLSHandshakeStartInfo](t, r))
	done := only[client.TLSHandshakeDoneInfo](t, r)
	require.NoError(t, done.Err)
	require.Positive(t, done.Duration)
	require.Equal(t, "localhost", done.ServerName)
	require.Equal(t, c.ConnectionState().PeerCertificates, done.State.PeerCertificates)
	require.True(t, done.State.HandshakeComplete)

	require.NoError(t, peer.NetConn().Close()) // without close_notify
	_, err := c.Recv(make([]byte, 1), 0)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, c.Close())
	require.ErrorIs(t, only[client.ClosedInfo](t, r).Err, io.ErrUnexpectedEOF)
}

func TestTrace_TLSHandshakeFails(t *testing.T) {
	s, r := listenTLS(t, "tcp", nil), recordTrace()
	go func() {
		if conn, err := s.Accept(); err == nil {
			_ = tls.Server(conn, s.config).HandshakeContext(context.Background())
			_ = conn.Close()
		}
	}()
	_, err := s.dial(&client.Options{Trace: &r.Trace, TLS: &client.TLSOptions{ServerName: "localhost"}})
	require.Error(t, err)
	require.Equal(t, connectCalls+"Connected "+tlsCalls+" Closed", r.calls())
	var failed *client.TLSError
	require.ErrorAs(t, only[client.TLSHandshakeDoneInfo](t, r).Err, &failed)
	require.Zero(t, only[client.TLSHandshakeDoneInfo](t, r).State)
	require.ErrorAs(t, only[client.ClosedInfo](t, r).Err, &failed)
}

func TestTrace_ConnectAndStartTLS(t *testing.T) {
	s, r := listenTLS(t, "tcp", nil), recordTrace()
	go func() {
		if conn, err := s.Accept(); err == nil {
			_ = tls.Server(conn, s.config).HandshakeContext(context.Background())
		}
	}()
	c, err := client.NewTCP(&client.Options{Trace: &r.Trace})
	require.NoError(t, err)
	require.NoError(t, c.Connect(t.Context(), s.Addr().String()))
	require.Equal(t, connectCalls+"Connected", r.calls())
	require.Equal(t, s.Addr().String(), only[client.ConnectedInfo](t, r).Conn.Address)
	require.NoError(t, c.StartTLS(t.Context(), s.trust(t)))
	require.ErrorIs(t, c.StartTLS(t.Context(), s.trust(t)), unix.EALREADY)
	require.Equal(t, connectCalls+"Connected "+tlsCalls+" "+tlsCalls, r.calls())
	require.ErrorIs(t, called[client.TLSHandshakeDoneInfo](r)[1].Err, unix.EALREADY)
	require.NoError(t, c.Close())
	require.NoError(t, only[client.ClosedInfo](t, r).Err)
}

func TestTrace_UnconnectedClientIsNotClosed(t *testing.T) {
	r := recordTrace()
	c, err := client.NewUDP(&client.Options{Trace: &r.Trace})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Empty(t, r.calls(), "without Connected")
}

func TestTrace_Proxy(t *testing.T) {
	r := recordTrace()
	p := &fakeProxy{reply: socksGranted}
	address, _ := p.serve(t, p.socks5)
	c, err := client.Dial("tcp", "name.test:80", &client.Options{Trace: &r.Trace, Proxy: "socks5://me:secret@" + address})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, connectCalls+"Connected ProxyStart ProxyDone Closed", r.calls(), "the proxy looks the name up")
	require.Equal(t, address, only[client.ConnectStartInfo](t, r).Addr.String())
	conn := only[client.ConnectedInfo](t, r).Conn
	require.Equal(t, "name.test:80", conn.Address)
	require.Equal(t, address, conn.Remote.String())
	require.Equal(t, client.ProxyStartInfo{Conn: conn, Proxy: "socks5://" + address}, only[client.ProxyStartInfo](t, r))
	require.NoError(t, only[client.ProxyDoneInfo](t, r).Err)

	r.reset()
	p = &fakeProxy{reply: []byte("HTTP/1.1 502 no\r\n\r\n")}
	address, _ = p.serve(t, p.http)
	_, err = client.Dial("tcp", "name.test:80", &client.Options{Trace: &r.Trace, Proxy: "http://" + address})
	require.Error(t, err)
	require.Equal(t, connectCalls+"Connected ProxyStart ProxyDone Closed", r.calls())
	require.ErrorContains(t, only[client.ProxyDoneInfo](t, r).Err, "502")
	require.ErrorContains(t, only[client.ClosedInfo](t, r).Err, "502")
}

func TestTrace_Refused(t *testing.T) {
	r := recordTrace()
	address := refused(t, "tcp")
	_, err := client.Dial("tcp", address, &client.Options{Trace: &r.Trace})
	require.Error(t, err)
	require.Equal(t, strings.TrimSpace(connectCalls), r.calls())
	require.ErrorIs(t, only[client.ConnectDoneInfo](t, r).Err, unix.ECONNREFUSED)

	r.reset()
	no := errors.New("no")
	_, err = client.Dial("tcp", address, &client.Options{Trace: &r.Trace, Control: func(string, string, syscall.RawConn) error { return no }})
	require.Error(t, err)
	require.Equal(t, strings.TrimSpace(connectCalls), r.calls())
	require.Equal(t, no, only[client.ConnectDoneInfo](t, r).Err)

	r.reset()
	_, err = client.Dial("tcp", "nowhere.test:80", &client.Options{Trace: &r.Trace, Resolver: names(t, map[string][]string{})})
	require.Error(t, err)
	require.Equal(t, strings.TrimSpace(dnsCalls), r.calls())
	var dns *net.DNSError
	require.ErrorAs(t, only[client.DNSDoneInfo](t, r).Err, &dns)
	require.True(t, dns.IsNotFound)
}

// Each Start has one Done, whatever ends the dial.
func TestTrace_LimitOrContextEndsTheDial(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	silent, two := names(t, nil), names(t, map[string][]string{"holes.test.": {"127.0.0.1", "127.0.0.1"}})
	port := portOf(t, hole)
	for name, test := range map[string]struct {
		address  string
		resolver *net.Resolver
		calls    string
	}{
		"a lookup without answer":     {"host.test:80", silent, "DNSStart DNSDone"},
		"an address without answer":   {hole, nil, "ConnectStart ConnectDone"},
		"two addresses without reply": {"holes.test:" + port, two, "DNSStart DNSDone ConnectStart ConnectStart ConnectDone ConnectDone"},
	} {
		for how, want := range map[string]error{"limit": os.ErrDeadlineExceeded, "deadline": context.DeadlineExceeded, "cancel": context.Canceled} {
			t.Run(name+", "+how, func(t *testing.T) {
				r := recordTrace()
				opts := client.Options{Trace: &r.Trace, Resolver: test.resolver, FallbackDelay: 10 * time.Millisecond}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				const limit = 400 * time.Millisecond
				switch how {
				case "limit":
					opts.Timeout = limit
				case "deadline":
					ctx, cancel = context.WithTimeout(ctx, limit)
					defer cancel()
				default:
					time.AfterFunc(limit, cancel)
				}
				_, err := client.DialContext(ctx, "tcp", test.address, &opts)
				require.ErrorIs(t, err, want)
				require.Equal(t, test.calls, r.calls())
				for _, done := range called[client.DNSDoneInfo](r) {
					require.Equal(t, test.resolver == silent, done.Err != nil)
					if done.Err != nil {
						require.ErrorIs(t, done.Err, want)
					}
				}
				for _, done := range called[client.ConnectDoneInfo](r) {
					require.ErrorIs(t, done.Err, want)
					require.Positive(t, done.Duration)
				}
			})
		}
	}
}

func TestTrace_OneOfTwoAttemptsIsNotNeeded(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	port := portOf(t, hole)
	ln, err := net.Listen("tcp", "127.0.0.2:"+port)
	require.NoError(t, err)
	defer ln.Close()
	r := recordTrace()
	c, err := client.Dial("tcp", "some.test:"+port, &client.Options{
		Trace: &r.Trace, FallbackDelay: 10 * time.Millisecond,
		Resolver: names(t, map[string][]string{"some.test.": {"127.0.0.1", "127.0.0.2"}}),
	})
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, dnsCalls+"ConnectStart ConnectStart ConnectDone ConnectDone Connected", r.calls())
	start, done := called[client.ConnectStartInfo](r), called[client.ConnectDoneInfo](r)
	require.Equal(t, hole, start[0].Addr.String())
	require.Equal(t, ln.Addr().String(), start[1].Addr.String())
	require.Equal(t, ln.Addr().String(), done[0].Addr.String())
	require.NoError(t, done[0].Err)
	require.Equal(t, hole, done[1].Addr.String())
	require.ErrorIs(t, done[1].Err, context.Canceled)
	require.Greater(t, done[1].Duration, done[0].Duration)
}

// With one answer outstanding the dial begins with the other.
func TestTrace_LookupInParts(t *testing.T) {
	v4, _, port := samePort(t)
	r, late := recordTrace(), make(chan struct{})
	defer close(late)
	c, err := client.Dial("tcp", "host.test.:"+port, &client.Options{
		Trace:    &r.Trace,
		Resolver: serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{after: late}).Resolver,
	})
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, v4.Addr().String(), c.RemoteAddr().String())
	done := only[client.DNSDoneInfo](t, r)
	require.True(t, done.Partial)
	require.Len(t, done.Addrs, 1)
}

func TestTrace_ClosedHasWhatEndedTheStream(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(t *testing.T, c *client.Client, peer net.Conn)
		want error
	}{
		"nothing": {func(*testing.T, *client.Client, net.Conn) {}, nil},
		"a time limit": {func(t *testing.T, c *client.Client, _ net.Conn) {
			require.NoError(t, c.SetDeadline(time.Now()))
			_, err := c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}, nil},
		"nothing to receive": {func(t *testing.T, c *client.Client, _ net.Conn) {
			_, err := c.Recv(make([]byte, 1), client.DontWait)
			require.ErrorIs(t, err, unix.EAGAIN)
		}, nil},
		"its end": {func(t *testing.T, c *client.Client, peer net.Conn) {
			require.NoError(t, peer.Close())
			_, err := c.Recv(make([]byte, 1), 0)
			require.Equal(t, io.EOF, err)
		}, io.EOF},
		"a reset": {func(t *testing.T, c *client.Client, peer net.Conn) {
			require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
			require.NoError(t, peer.Close())
			_, err := c.Recv(make([]byte, 1), 0)
			require.ErrorIs(t, err, unix.ECONNRESET)
		}, unix.ECONNRESET},
		"a reset of a send": {func(t *testing.T, c *client.Client, peer net.Conn) {
			require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
			require.NoError(t, peer.Close())
			require.Eventually(t, func() bool { _, err := c.Send([]byte("x"), 0); return err != nil }, testTimeout, time.Millisecond)
		}, unix.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			r := recordTrace()
			c, peer := stream(t, "tcp", &client.Options{Trace: &r.Trace})
			test.end(t, c, peer)
			require.NoError(t, c.Close())
			closed := only[client.ClosedInfo](t, r)
			require.ErrorIs(t, closed.Err, test.want)
			require.Equal(t, client.DiscardNone, closed.Discard)
		})
	}
}

func TestTrace_AsyncClientReportsItsCause(t *testing.T) {
	for name, end := range map[string]error{"end": io.EOF, "reset": unix.ECONNRESET} {
		t.Run(name, func(t *testing.T) {
			ln := listen(t, "tcp")
			r := recordTrace()
			e := newAsyncEvents(t)
			a := e.dial("tcp", ln.Addr().String(), &client.Options{Trace: &r.Trace}, nil)
			peer, err := ln.Accept()
			require.NoError(t, err)
			e.client()
			_, err = peer.Write([]byte("x"))
			require.NoError(t, err)
			e.receives("x")
			if name == "reset" {
				require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
			}
			require.NoError(t, peer.Close())
			require.ErrorIs(t, e.result(), end)
			<-a.Done()
			only[client.ConnectedInfo](t, r)
			only[client.GotFirstResponseByteInfo](t, r)
			require.ErrorIs(t, only[client.ClosedInfo](t, r).Err, end)
		})
	}
}

func TestTrace_ContextAndOptionsAreBothCalled(t *testing.T) {
	s := countedEcho(t, "tcp")
	var order []string
	trace := func(name string) *client.Trace {
		return &client.Trace{
			Connected:            func(client.ConnectedInfo) { order = append(order, name+" connected") },
			GotFirstResponseByte: func(client.GotFirstResponseByteInfo) { order = append(order, name+" received") },
			Closed:               func(client.ClosedInfo) { order = append(order, name+" closed") },
		}
	}
	outer := client.WithTrace(t.Context(), trace("outer"))
	ctx := client.WithTrace(outer, trace("inner"))
	require.NotNil(t, client.ContextTrace(ctx))
	require.Nil(t, client.ContextTrace(t.Context()))
	require.Equal(t, client.ContextTrace(outer), client.ContextTrace(client.WithTrace(outer, nil)))
	c, err := client.DialContext(ctx, "tcp", s.Addr().String(), &client.Options{Trace: trace("options")})
	require.NoError(t, err)
	asks(t, c, "ping")
	require.NoError(t, c.Close())
	require.Equal(t, []string{
		"inner connected", "outer connected", "options connected",
		"inner received", "outer received", "options received",
		"inner closed", "outer closed", "options closed",
	}, order)
}

// The functions of httptrace are called as package net calls them: for the same events,
// in the same order, with the same arguments.
func TestTrace_HTTPTraceIsCalledAsByPackageNet(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "hello") }))
			start := s.Start
			if scheme == "https" {
				start = s.StartTLS
			}
			start()
			defer s.Close()
			port := portOf(t, s.Listener.Addr().String())
			resolver := names(t, map[string][]string{"host.test.": {"127.0.0.1"}})
			get := func(transport *http.Transport) []string {
				defer transport.CloseIdleConnections()
				var mu sync.Mutex
				var calls []string
				add := func(args ...any) {
					mu.Lock()
					defer mu.Unlock()
					calls = append(calls, fmt.Sprint(args...))
				}
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					DNSStart:             func(i httptrace.DNSStartInfo) { add("DNSStart ", i) },
					DNSDone:              func(i httptrace.DNSDoneInfo) { add("DNSDone ", i) },
					ConnectStart:         func(network, addr string) { add("ConnectStart ", network, addr) },
					ConnectDone:          func(network, addr string, err error) { add("ConnectDone ", network, addr, err) },
					TLSHandshakeStart:    func() { add("TLSHandshakeStart") },
					TLSHandshakeDone:     func(c tls.ConnectionState, err error) { add("TLSHandshakeDone ", c.HandshakeComplete, err) },
					GotConn:              func(i httptrace.GotConnInfo) { add("GotConn ", i.Reused) },
					GotFirstResponseByte: func() { add("GotFirstResponseByte") },
				})
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://host.test:"+port, nil)
				require.NoError(t, err)
				response, err := transport.RoundTrip(request)
				require.NoError(t, err)
				body, err := io.ReadAll(response.Body)
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				require.Equal(t, "hello", string(body))
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(calls)
			}
			insecure := &tls.Config{InsecureSkipVerify: true}
			want := get(&http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext, TLSClientConfig: insecure})
			require.Contains(t, want, "GotFirstResponseByte")
			require.Equal(t, want, get(&http.Transport{
				DialContext:     (&client.Dialer{Options: &client.Options{Resolver: resolver}}).DialContext,
				TLSClientConfig: insecure,
			}))
			if scheme == "https" {
				require.Equal(t, want, get(&http.Transport{
					DialTLSContext: (&client.Dialer{Options: &client.Options{
						Resolver: resolver, TLS: &client.TLSOptions{InsecureSkipVerify: true},
					}}).DialContext,
				}))
			}
		})
	}
}

func TestTrace_HTTPTraceOfAFailedAttempt(t *testing.T) {
	address := refused(t, "tcp")
	failure := func(dial func(ctx context.Context, network, address string) (net.Conn, error)) (text string) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			ConnectDone: func(network, addr string, err error) { text = fmt.Sprint(network, addr, err) },
		})
		_, err := dial(ctx, "tcp", address)
		require.Error(t, err)
		return text
	}
	require.Equal(t, failure(new(net.Dialer).DialContext), failure(new(client.Dialer).DialContext))
}

// A resolver that dials with this package or another does so untraced: the caller of Dial
// traces its own connection.
func TestTrace_ResolverIsNotTraced(t *testing.T) {
	s := countedEcho(t, "tcp")
	server := names(t, map[string][]string{"host.test.": {"127.0.0.1"}})
	conn, err := server.Dial(t.Context(), "", "")
	require.NoError(t, err)
	dns := conn.RemoteAddr().String()
	require.NoError(t, conn.Close())
	r := recordTrace()
	var dialled, seen int
	ctx := client.WithTrace(context.WithValue(t.Context(), "key", "value"), &r.Trace) //nolint:staticcheck // any key
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{ConnectStart: func(string, string) { dialled++ }})
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if ctx.Value("key") == "value" && ctx.Value(nil) == nil {
			seen++
		}
		return new(client.Dialer).DialContext(ctx, "udp", dns)
	}}
	resolver.Dial = serialized(resolver.Dial)
	c, err := client.DialContext(ctx, "tcp", "host.test:"+portOf(t, s.Addr().String()), &client.Options{Resolver: resolver})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, dnsCalls+connectCalls+"Connected Closed", r.calls())
	require.Equal(t, 1, dialled)
	require.Positive(t, seen, "other values of the context reach the resolver")
}

func serialized(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	var mu sync.Mutex
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		return dial(ctx, network, address)
	}
}

// A panic in a function passes to the caller of Dial, the connection is closed, and each
// Start before has its Done.
func TestTrace_PanicEndsTheDial(t *testing.T) {
	secure, ended := listenTLS(t, "tcp", nil), make(chan struct{}, 100)
	s := countedServer(t, "tcp", func(conn net.Conn) {
		defer func() { ended <- struct{}{} }()
		peer := tls.Server(conn, secure.config)
		_ = peer.HandshakeContext(context.Background())
		_, _ = peer.Read(make([]byte, 1))
	})
	hole := refusedBeside(t, s.Addr().String())
	for _, name := range []string{"DNSStart", "DNSDone", "ConnectStart", "ConnectDone", "Connected", "TLSHandshakeStart", "TLSHandshakeDone"} {
		t.Run(name, func(t *testing.T) {
			r := recordTrace()
			r.onCall = func(called string) {
				if called == name {
					panic(name)
				}
			}
			require.PanicsWithValue(t, name, func() {
				_, _ = client.Dial("tcp", "host.test:"+portOf(t, s.Addr().String()), &client.Options{
					Trace: &r.Trace, TLS: secure.trust(t), Resolver: names(t, map[string][]string{"host.test.": {hole, "127.0.0.1"}}),
				})
			})
			calls := r.calls()
			for _, what := range []string{"DNS", "Connect", "TLSHandshake"} {
				if start := strings.Count(calls, what+"Start"); what+"Start" != name {
					require.Equal(t, start, strings.Count(calls, what+"Done"), calls)
				}
			}
			if strings.Contains(calls, "Connected") {
				require.Equal(t, 1, strings.Count(calls, "Closed"), calls)
				<-ended
			}
		})
	}
}

// refusedBeside returns an IP address that refuses connections to the port of address.
func refusedBeside(t *testing.T, address string) string {
	t.Helper()
	const host = "127.0.0.3"
	_, err := net.DialTimeout("tcp", net.JoinHostPort(host, portOf(t, address)), testTimeout)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	return host
}

func TestTrace_ResolverOfTheCaller(t *testing.T) {
	s, r := countedEcho(t, "tcp"), recordTrace()
	address := "host.test:" + portOf(t, s.Addr().String())
	c, err := client.Dial("tcp", address, &client.Options{Trace: &r.Trace, Resolver: resolvesTo("127.0.0.1")})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, dnsCalls+connectCalls+"Connected Closed", r.calls())
	require.Equal(t, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, only[client.DNSDoneInfo](t, r).Addrs)
}

func TestTrace_StartConnect(t *testing.T) {
	s, r := countedEcho(t, "tcp"), recordTrace()
	c, err := client.NewTCP(&client.Options{Trace: &r.Trace})
	require.NoError(t, err)
	require.NoError(t, c.StartConnect(s.Addr().String()))
	asks(t, c, "ping")
	require.NoError(t, c.Close())
	require.Equal(t, connectCalls+"Connected GotFirstResponseByte Closed", r.calls())
}

// Close may come while Connect is under way. Closed is called after Connected all the same.
func TestTrace_ClosedIsCalledAfterConnected(t *testing.T) {
	s := countedEcho(t, "tcp")
	var c *client.Client
	var order []string
	c, err := client.NewTCP(&client.Options{Trace: &client.Trace{
		Connected: func(client.ConnectedInfo) {
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				_ = c.Close()
			}()
			<-closed
			order = append(order, "Connected")
		},
		Closed: func(client.ClosedInfo) { order = append(order, "Closed") },
	}})
	require.NoError(t, err)
	require.ErrorIs(t, c.Connect(t.Context(), s.Addr().String()), net.ErrClosed)
	require.Equal(t, []string{"Connected", "Closed"}, order)
}

func TestTrace_AsyncClient(t *testing.T) {
	s, r := countedEcho(t, "tcp"), recordTrace()
	ctx, inCtx := t.Context(), recordTrace()
	ctx = client.WithTrace(ctx, &inCtx.Trace)
	a, err := client.DialAsync(ctx, "tcp", s.Addr().String(), &client.Options{Trace: &r.Trace}, client.AsyncConfig{
		OnConnect: func(a *client.AsyncClient) { _ = a.Send([]byte("ping")) },
		OnReceive: func(a *client.AsyncClient, _ []byte) { _ = a.Close() },
		OnError:   func(_ *client.AsyncClient, err error) { t.Error(err) },
		OnClose:   func(*client.AsyncClient, error) {},
	})
	require.NoError(t, err)
	<-a.Done()
	const want = connectCalls + "Connected GotFirstResponseByte Closed"
	require.Eventually(t, func() bool { return r.calls() == want && inCtx.calls() == want }, testTimeout, time.Millisecond)
}
