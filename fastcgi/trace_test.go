package fastcgi

import (
	"context"
	"io"
	"testing"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// A Trace in the context of a request, and one in the Options, see its connection: new,
// used again, and replaced because the application had closed it.
func TestClient_RequestIsTraced(t *testing.T) {
	var calls []string
	add := func(call string) { calls = append(calls, call) }
	trace := &client.Trace{
		GetConn:   func(client.GetConnInfo) { add("GetConn") },
		Connected: func(client.ConnectedInfo) { add("Connected") },
		GotConn: func(i client.GotConnInfo) {
			add(map[bool]string{false: "new", true: "reused"}[i.Reused])
		},
		GotFirstResponseByte: func(client.GotFirstResponseByteInfo) { add("GotFirstResponseByte") },
		PutIdleConn:          func(i client.PutIdleConnInfo) { add(i.Discard.String()) },
		Retried: func(i client.RetriedInfo) {
			require.Error(t, i.Err)
			require.NotEmpty(t, i.Address)
			add("Retried")
		},
	}
	for _, where := range []string{"context", "Options"} {
		t.Run(where, func(t *testing.T) {
			calls = nil
			cl := newApplication(t, func(a *appRequest) bool {
				if a.number == 2 {
					return false // the application has read the request and closes the connection
				}
				a.write(t, okResponse("good")...)
				return true
			})
			ctx := context.Background()
			if where == "context" {
				ctx = client.WithTrace(ctx, trace)
			} else {
				cl.Options = &client.Options{Trace: trace}
			}
			for range 3 {
				resp, err := cl.Do(ctx, &Request{Idempotent: true})
				require.NoError(t, err)
				_, err = io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			require.Equal(t, []string{
				"GetConn", "Connected", "new", "GotFirstResponseByte", "none",
				"GetConn", "reused", "GotFirstResponseByte", "none",
				"GetConn", "reused", "failed", "Retried",
				"GetConn", "Connected", "new", "GotFirstResponseByte", "none",
			}, calls)
		})
	}
}

// A function that panics before Do returns does not keep the connection in use: the caller has
// nothing to close.
func TestClient_PanicInDoFreesTheConnection(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"GotFirstResponseByte", "Stderr"} {
		t.Run(name, func(t *testing.T) {
			cl := newApplication(t, func(a *appRequest) bool {
				a.write(t, appendRecord(nil, typeStderr, firstRequestID, []byte("a warning")))
				a.write(t, okResponse("good")...)
				return true
			})
			panics := name
			call := func(called string) {
				if called == panics {
					panic(called)
				}
			}
			cl.MaxConns = 1
			cl.Options = &client.Options{Trace: &client.Trace{
				GotFirstResponseByte: func(client.GotFirstResponseByteInfo) { call("GotFirstResponseByte") },
			}}
			r := &Request{Stderr: func([]byte) { call("Stderr") }}
			require.PanicsWithValue(t, name, func() { _, _ = cl.Do(context.Background(), r) })
			require.Zero(t, cl.Stats().Active)
			panics = ""
			_, body, err := doAndRead(cl, r)
			require.NoError(t, err)
			require.Equal(t, "good", body)
		})
	}
}
