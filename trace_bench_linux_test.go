package client_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// requestContext is a context like that of a request to a server: with a deadline, and
// values of its middleware.
func requestContext(t testing.TB) context.Context {
	ctx := t.Context()
	for i := range 5 {
		type key int
		ctx = context.WithValue(ctx, key(i), i)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	t.Cleanup(cancel)
	return ctx
}

func TestTrace_NoneAllocatesNothing(t *testing.T) {
	p, address := echoPool(t, "tcp")
	ctx, buf := requestContext(t), make([]byte, 8)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		c, err := p.Dial(ctx, "tcp", address, nil)
		if err == nil {
			err = roundTrip(c, buf)
		}
		if err == nil {
			err = c.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}))
}

// With a Trace, Send and Recv allocate nothing after the first byte.
func TestTrace_SendAndRecvAllocateNothing(t *testing.T) {
	c, err := client.Dial("unix", otherProcess(t, "echo", "unix"), &client.Options{Trace: &recordTrace().Trace})
	require.NoError(t, err)
	defer c.Close()
	buf := make([]byte, 8)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if err := roundTrip(c, buf); err != nil {
			t.Error(err)
		}
	}))
}

// BenchmarkTrace measures a checkout and a round trip without a Trace, with one that has no
// functions, and with one whose functions do nothing, in turns.
func BenchmarkTrace(b *testing.B) {
	functions := &client.Trace{
		GetConn: func(client.GetConnInfo) {}, GotConn: func(client.GotConnInfo) {}, ProbedConn: func(client.ProbedConnInfo) {},
		PutIdleConn: func(client.PutIdleConnInfo) {}, GotFirstResponseByte: func(client.GotFirstResponseByteInfo) {},
	}
	kinds := []string{"none", "empty", "functions"}
	opts := []*client.Options{nil, {Trace: new(client.Trace)}, {Trace: functions}}
	const batch = 200
	inTurns := func(b *testing.B, f func(opts *client.Options) error) {
		took := make([][]float64, len(opts))
		for b.Loop() {
			for i, o := range opts {
				begin := time.Now()
				for range batch {
					if err := f(o); err != nil {
						b.Fatal(err)
					}
				}
				took[i] = append(took[i], float64(time.Since(begin))/batch)
			}
		}
		for i := range opts {
			slices.Sort(took[i])
			b.ReportMetric(took[i][len(took[i])/2], "ns/"+kinds[i])
		}
		b.ReportMetric(0, "ns/op")
	}
	b.Run("checkout", func(b *testing.B) {
		p, address := echoPool(b, "tcp")
		ctx := requestContext(b)
		inTurns(b, func(o *client.Options) error {
			c, err := p.Dial(ctx, "tcp", address, o)
			if err != nil {
				return err
			}
			return c.Close()
		})
	})
	b.Run("round trip", func(b *testing.B) {
		path := otherProcess(b, "echo", "unix")
		clients := make(map[*client.Options]*client.Client)
		for _, o := range opts {
			c, err := client.Dial("unix", path, o)
			require.NoError(b, err)
			defer c.Close()
			clients[o] = c
		}
		buf := make([]byte, 64)
		inTurns(b, func(o *client.Options) error { return roundTrip(clients[o], buf) })
	})
}
