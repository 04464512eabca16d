package client_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"slices"

	"github.com/blocksock/client"
)

// logTrace logs every event of a connection, failures as warnings.
func logTrace(logger *slog.Logger) *client.Trace {
	event := func(name string, err error, args ...any) {
		if err != nil {
			logger.Warn(name, append(args, "err", err)...)
			return
		}
		logger.Debug(name, args...)
	}
	conn := func(c client.ConnInfo) slog.Attr {
		return slog.Group("conn", "id", c.ID, "network", c.Network, "address", c.Address, "local", c.Local, "remote", c.Remote)
	}
	return &client.Trace{
		DNSDone: func(i client.DNSDoneInfo) {
			event("lookup", i.Err, "host", i.Host, "addrs", i.Addrs, "took", i.Duration)
		},
		ConnectDone: func(i client.ConnectDoneInfo) {
			event("connect", i.Err, "network", i.Network, "addr", i.Addr, "took", i.Duration)
		},
		Connected: func(i client.ConnectedInfo) { event("connected", nil, conn(i.Conn)) },
		ProxyDone: func(i client.ProxyDoneInfo) {
			event("proxy", i.Err, conn(i.Conn), "proxy", i.Proxy, "took", i.Duration)
		},
		TLSHandshakeDone: func(i client.TLSHandshakeDoneInfo) {
			event("TLS handshake", i.Err, conn(i.Conn), "resumed", i.State.DidResume, "took", i.Duration)
		},
		GotFirstResponseByte: func(i client.GotFirstResponseByteInfo) { event("first byte", nil, conn(i.Conn)) },
		Closed: func(i client.ClosedInfo) {
			event("closed", i.Err, conn(i.Conn), "discard", i.Discard)
		},
		Waited: func(i client.WaitedInfo) {
			event("waited", i.Err, "address", i.Address, "took", i.Duration)
		},
		ProbedConn: func(i client.ProbedConnInfo) {
			event("probed", nil, conn(i.Conn), "idle", i.IdleTime, "discard", i.Verdict)
		},
		GotConn: func(i client.GotConnInfo) {
			event("got", i.Err, conn(i.Conn), "reused", i.Reused, "idle", i.IdleTime, "took", i.Duration)
		},
		PutIdleConn: func(i client.PutIdleConnInfo) {
			event("put", nil, conn(i.Conn), "discard", i.Discard)
		},
		Retried: func(i client.RetriedInfo) {
			logger.Info("retry", "address", i.Address, "err", i.Err)
		},
	}
}

// A Trace that logs with log/slog. Here the log omits what differs from run to run.
func ExampleTrace_slog() {
	address, stop := exampleServer(pongs)
	defer stop()
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if slices.Contains([]string{"time", "took", "idle", "id", "addr", "address", "local", "remote"}, a.Key) {
				return slog.Attr{}
			}
			return a
		},
	})
	opts := &client.Options{Trace: logTrace(slog.New(handler))}
	pool := client.NewPool(client.PoolOptions{})
	for range 2 {
		c, err := pool.Dial(context.Background(), "tcp", address, opts)
		if err != nil {
			log.Fatal(err)
		}
		if err := ping(c); err != nil {
			log.Fatal(err)
		}
		_ = c.Close()
	}
	_ = pool.Close()
	// Output:
	// level=DEBUG msg=connect network=tcp
	// level=DEBUG msg=connected conn.network=tcp
	// level=DEBUG msg=got conn.network=tcp reused=false
	// level=DEBUG msg="first byte" conn.network=tcp
	// level=DEBUG msg=put conn.network=tcp discard=none
	// level=DEBUG msg=probed conn.network=tcp discard=none
	// level=DEBUG msg=got conn.network=tcp reused=true
	// level=DEBUG msg="first byte" conn.network=tcp
	// level=DEBUG msg=put conn.network=tcp discard=none
	// level=DEBUG msg=closed conn.network=tcp discard=pool_closed
}

// A Trace in a context is for one call. It counts here the attempts of a dial.
func ExampleWithTrace() {
	address, stop := exampleServer(pongs)
	defer stop()
	attempts := 0
	ctx := client.WithTrace(context.Background(), &client.Trace{
		ConnectStart: func(client.ConnectStartInfo) { attempts++ },
	})
	c, err := client.DialContext(ctx, "tcp", address, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(attempts)
	// Output: 1
}
