package client_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

type clients = []*client.Client

// selects is a Select that must find a client.
func selects(t testing.TB, read, write, except clients) client.Ready {
	t.Helper()
	ready, err := client.Select(read, write, except, testTimeout)
	require.NoError(t, err)
	return ready
}

// selectsNobody is a Select without waiting that must find no client.
func selectsNobody(t testing.TB, read, write, except clients) {
	t.Helper()
	ready, err := client.Select(read, write, except, 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Empty(t, append(append(ready.Read, ready.Write...), ready.Except...))
}

// each calls f with a client of every kind and the connection of its peer.
func each(t *testing.T, f func(t *testing.T, c *client.Client, send func(p []byte))) {
	eachStream(t, func(t *testing.T, network string) {
		for name, opts := range map[string]*client.Options{"plain": nil, "framed": {Framing: client.Delimiter{Delim: []byte("\n")}}} {
			t.Run(name, func(t *testing.T) {
				c, peer := stream(t, network, opts)
				f(t, c, func(p []byte) { _, err := peer.Write(p); require.NoError(t, err) })
			})
		}
	})
	eachDatagram(t, func(t *testing.T, network string) {
		c, peer := datagrams(t, network, nil)
		f(t, c, func(p []byte) { _, err := peer.WriteTo(p, c.LocalAddr()); require.NoError(t, err) })
	})
}

func TestSelect_FindsReadyClients(t *testing.T) {
	each(t, func(t *testing.T, c *client.Client, send func(p []byte)) {
		one := clients{c}
		selectsNobody(t, one, nil, one)
		ready := selects(t, one, one, one)
		require.Equal(t, client.Ready{Write: one}, lean(ready))
		send([]byte("hello\n"))
		ready = selects(t, one, nil, one)
		require.Equal(t, client.Ready{Read: one}, lean(ready))
		ready = selects(t, one, one, one) // it is still there
		require.Equal(t, client.Ready{Read: one, Write: one}, lean(ready))
		p := make([]byte, 6)
		n, err := c.Recv(p, client.DontWait|client.WaitAll)
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(p[:n]))
		selectsNobody(t, one, nil, one)
	})
}

// lean replaces empty slices by nil.
func lean(r client.Ready) client.Ready {
	for _, s := range []*[]*client.Client{&r.Read, &r.Write, &r.Except} {
		if len(*s) == 0 {
			*s = nil
		}
	}
	return r
}

// With disjoint sets the original polled only as many clients as the longest set had,
// and wrote behind its array.
func TestSelect_DisjointSets(t *testing.T) {
	var all clients
	for range 3 {
		c, _ := stream(t, "tcp", nil)
		all = append(all, c)
	}
	begin := time.Now()
	ready := selects(t, all[:1], all[1:2], all[2:])
	require.Equal(t, client.Ready{Write: all[1:2]}, lean(ready))
	require.Less(t, time.Since(begin), testTimeout)

	u, peer := datagrams(t, "udp", nil)
	_, err := peer.WriteTo([]byte("x"), u.LocalAddr())
	require.NoError(t, err)
	ready = selects(t, clients{all[0], u}, nil, all[1:])
	require.Equal(t, client.Ready{Read: clients{u}}, lean(ready))
}

func TestSelect_SameClientInSeveralSets(t *testing.T) {
	c, peer := stream(t, "tcp", nil)
	d, _ := stream(t, "unix", nil)
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	arrived(t, c)
	ready := selects(t, clients{c, d, c}, clients{d, c, d, d}, clients{c, c})
	require.Equal(t, client.Ready{Read: clients{c, c}, Write: clients{d, c, d, d}}, lean(ready))
}

// The end of a stream, a reset, and urgent data.
func TestSelect_FindsEndAndExceptionalConditions(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, nil)
		one := clients{c}
		type closer interface{ CloseWrite() error }
		require.NoError(t, peer.(closer).CloseWrite())
		ready := selects(t, one, nil, one)
		require.Equal(t, client.Ready{Read: one}, lean(ready))
	})
	t.Run("reset", func(t *testing.T) {
		c, peer := stream(t, "tcp", nil)
		one := clients{c}
		require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
		require.NoError(t, peer.Close())
		ready := selects(t, nil, nil, one)
		require.Equal(t, one, ready.Except)
		ready = selects(t, one, one, one)
		require.Equal(t, client.Ready{Read: one, Write: one, Except: one}, ready)
	})
	t.Run("urgent", func(t *testing.T) {
		c, peer := stream(t, "tcp", nil)
		one := clients{c}
		raw, err := peer.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Write(func(fd uintptr) bool { return unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) == nil }))
		ready := selects(t, nil, nil, one)
		require.Equal(t, one, ready.Except)
		_, err = c.Recv(make([]byte, 1), client.OOB)
		require.NoError(t, err)
		selectsNobody(t, nil, nil, one)
	})
}

// Data received together with other data is ready at once, although poll(2) does not
// report it.
func TestSelect_FindsBufferedData(t *testing.T) {
	for _, network := range tlsNetworks {
		t.Run(network, func(t *testing.T) {
			c, peer := stream(t, network, nil)
			one := clients{c}
			_, err := peer.Write([]byte("record"))
			require.NoError(t, err)
			for i, how := range []client.Flag{0, client.Peek, 0, client.WaitAll, client.Peek | client.WaitAll} {
				_, err = c.Recv(make([]byte, 1), how)
				require.NoError(t, err)
				begin := time.Now()
				ready := selects(t, one, nil, nil)
				require.Equal(t, one, ready.Read, i)
				require.Less(t, time.Since(begin), testTimeout)
				ready, err = client.Select(one, one, nil, 0)
				require.NoError(t, err)
				require.Equal(t, client.Ready{Read: one, Write: one}, lean(ready))
			}
			got := make([]byte, 3)
			_, err = c.Recv(got, client.WaitAll|client.DontWait)
			require.NoError(t, err)
			require.Equal(t, "ord", string(got))
			selectsNobody(t, one, nil, nil)

			// Select decrypts a byte, and the next call receives more than that.
			for _, receive := range []func(p []byte) (int, error){
				c.Read,
				func(p []byte) (int, error) { return c.Recv(p, 0) },
				func(p []byte) (int, error) { return c.Recv(p, client.DontWait) },
			} {
				_, err = peer.Write([]byte("record"))
				require.NoError(t, err)
				require.Equal(t, one, selects(t, one, nil, nil).Read)
				got := make([]byte, 10)
				n, err := receive(got)
				require.NoError(t, err)
				require.Equal(t, "record", string(got[:n]))
			}

			// Two records in one segment, of which one is received.
			_, err = peer.Write(make([]byte, 2<<10))
			require.NoError(t, err)
			_, err = peer.Write([]byte("second"))
			require.NoError(t, err)
			_, err = c.Recv(make([]byte, 2<<10), client.WaitAll)
			require.NoError(t, err)
			require.Equal(t, one, selects(t, one, nil, nil).Read)
		})
	}
	eachStream(t, func(t *testing.T, network string) {
		c, peer := stream(t, network, &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}})
		one := clients{c}
		_, err := peer.Write([]byte("first\nsecond\nth"))
		require.NoError(t, err)
		for _, want := range []string{"first\n", "second\n"} {
			require.Equal(t, one, selects(t, one, nil, nil).Read)
			p, err := c.RecvPacket()
			require.NoError(t, err)
			require.Equal(t, want, string(p))
		}
		require.Equal(t, one, selects(t, one, nil, nil).Read) // Recv would give it
		_, err = c.Recv(make([]byte, 2), client.WaitAll)
		require.NoError(t, err)
		selectsNobody(t, one, nil, nil)
	})
}

// The socket is readable, and a Recv would still wait.
func TestSelect_OverTLS(t *testing.T) {
	c, peer, v := valved(t, tls.VersionTLS13, client.Options{})
	one := clients{c}
	selectsNobody(t, one, nil, nil) // session tickets have come with the handshake
	record := records(t, v, func() error { _, err := peer.Write([]byte("record")); return err })
	for i, b := range record {
		selectsNobody(t, one, nil, nil)
		_, err := v.Conn.Write([]byte{b})
		require.NoError(t, err)
		if i == len(record)/2 {
			limit := 10 * time.Millisecond
			begin := time.Now()
			_, err := client.Select(one, nil, nil, limit)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(begin), limit)
		}
	}
	require.Equal(t, one, selects(t, one, nil, nil).Read)
	got := make([]byte, 6)
	_, err := c.Recv(got, client.WaitAll|client.DontWait)
	require.NoError(t, err)
	require.Equal(t, "record", string(got))
	selectsNobody(t, one, nil, nil)

	// An end of TLS, and none.
	end := records(t, v, peer.CloseWrite)
	require.NoError(t, v.SetWriteDeadline(time.Time{})) // which crypto/tls has set
	_, err = v.Conn.Write(end)
	require.NoError(t, err)
	require.Equal(t, one, selects(t, one, nil, nil).Read)
	require.Equal(t, one, selects(t, one, nil, nil).Read, "it stays so")
	c, _, v = valved(t, tls.VersionTLS12, client.Options{})
	require.NoError(t, v.Close())
	require.Equal(t, clients{c}, selects(t, clients{c}, nil, nil).Read)
}

func TestSelect_Timeout(t *testing.T) {
	inParallelIfShort(t)
	const limit = 100 * time.Millisecond
	each(t, func(t *testing.T, c *client.Client, _ func(p []byte)) {
		one := clients{c}
		underSignals(t, func(t *testing.T) {
			begin := time.Now()
			ready, err := client.Select(one, nil, one, limit)
			took := time.Since(begin)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			var timeout net.Error
			require.ErrorAs(t, err, &timeout)
			require.True(t, timeout.Timeout())
			require.Equal(t, "select: i/o timeout", err.Error())
			require.Zero(t, lean(ready))
			require.GreaterOrEqual(t, took, limit)
			require.Less(t, took, testTimeout)
		})
	})
}

func TestSelect_NegativeTimeoutWaits(t *testing.T) {
	each(t, func(t *testing.T, c *client.Client, send func(p []byte)) {
		found := make(chan client.Ready, 1)
		go func() {
			ready, err := client.Select(clients{c}, nil, nil, -1)
			if err != nil {
				t.Error(err)
			}
			found <- ready
		}()
		inKernel(t)
		require.Empty(t, found)
		send([]byte("x"))
		require.Equal(t, clients{c}, (<-found).Read)
	})
}

func TestSelect_CloseOfAClientEndsIt(t *testing.T) {
	ends := func(t *testing.T, others clients, open func() *client.Client) {
		t.Helper()
		for k, name := range []string{"read", "except"} {
			c := open()
			var sets [3]clients
			sets[2*k] = append(slices.Clone(others), c)
			result := make(chan error, 1)
			go func() {
				_, err := client.Select(sets[0], sets[1], sets[2], -1)
				result <- err
			}()
			inKernel(t)
			require.NoError(t, c.Close())
			err := <-result
			require.ErrorIs(t, err, net.ErrClosed)
			var of *client.SelectError
			require.ErrorAs(t, err, &of)
			require.Equal(t, client.SelectError{Set: name, Index: len(others), Err: net.ErrClosed}, *of)
		}
	}
	var others clients
	for _, network := range []string{"tcp", "tls", "udp", "unix"} {
		others = append(others, connectedTo(t, network, nil))
	}
	for _, network := range append(tlsNetworks, allNetworks...) {
		t.Run(network, func(t *testing.T) { ends(t, others, func() *client.Client { return connectedTo(t, network, nil) }) })
	}
	for name, open := range map[string]func(*client.Options) (*client.Client, error){
		"udp without a peer": client.NewUDP, "unixgram without a peer": client.NewUnixgram,
	} {
		t.Run(name, func(t *testing.T) {
			ends(t, others, func() *client.Client {
				c, err := open(nil)
				require.NoError(t, err)
				return c
			})
		})
	}
	t.Run("from a pool", func(t *testing.T) {
		s, p := silentServer(t, "tcp"), newPool(t, client.PoolOptions{})
		ends(t, others, func() *client.Client { return s.from(t, p, nil) })
		require.EqualValues(t, 2, p.Stats().Discards[client.DiscardFailed])
	})
	selectsNobody(t, others, nil, others)
}

func TestSelectError_NamesTheClient(t *testing.T) {
	good, _ := stream(t, "tcp", nil)
	closed, _ := stream(t, "tcp", nil)
	require.NoError(t, closed.Close())
	unconnected, err := client.NewTCP(nil)
	require.NoError(t, err)
	defer unconnected.Close()
	p, s := newPool(t, client.PoolOptions{}), silentServer(t, "tcp")
	back := s.from(t, p, nil)
	require.NoError(t, back.Close())
	for name, test := range map[string]struct {
		sets  [3]clients
		set   string
		index int
		is    error
		text  string
	}{
		"nobody":         {is: unix.EINVAL, text: "select: all sets are empty: invalid argument"},
		"empty":          {sets: [3]clients{{}, {}, {}}, is: unix.EINVAL},
		"nil":            {[3]clients{{good, nil}}, "read", 1, unix.EINVAL, "select: read[1]: the client is nil: invalid argument"},
		"closed":         {[3]clients{{good}, {good, good, closed}}, "write", 2, net.ErrClosed, "write[2]: use of closed network connection"},
		"unconnected":    {[3]clients{{good}, nil, {unconnected}}, "except", 0, unix.ENOTCONN, "except[0]: transport endpoint is not connected"},
		"zero":           {[3]clients{{{}}}, "read", 0, unix.ENOTCONN, "read[0]"},
		"back in a pool": {[3]clients{{back}}, "read", 0, net.ErrClosed, "read[0]: use of closed network connection"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, timeout := range []time.Duration{0, -1, testTimeout} {
				ready, err := client.Select(test.sets[0], test.sets[1], test.sets[2], timeout)
				require.ErrorIs(t, err, test.is)
				require.ErrorContains(t, err, test.text)
				require.Zero(t, ready)
				var op *net.OpError
				require.ErrorAs(t, err, &op)
				require.Equal(t, "select", op.Op)
				var of *client.SelectError
				if test.set != "" {
					require.ErrorAs(t, err, &of)
					require.Equal(t, test.set, of.Set)
					require.Equal(t, test.index, of.Index)
				}
			}
		})
	}
	require.NoError(t, good.Close(), "nobody holds it any more")
	require.Equal(t, 1, p.Stats().Idle)
}

// manyUDP makes clients without peers: one descriptor each.
func manyUDP(t testing.TB, n int) clients {
	t.Helper()
	var limit unix.Rlimit // package os has raised it as far as it goes
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if uint64(limit.Cur) < uint64(n+200) {
		t.Skipf("no more than %d descriptors here", limit.Cur)
	}
	all := make(clients, n)
	for i := range all {
		c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0"})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		all[i] = c
	}
	return all
}

// There is no limit like FD_SETSIZE.
func TestSelect_FiveThousandClients(t *testing.T) {
	all := manyUDP(t, 5000)
	selectsNobody(t, all, nil, all)
	ready := selects(t, all, all, all)
	require.Equal(t, client.Ready{Write: all}, lean(ready))
	late := all[4321]
	_, err := all[0].SendTo([]byte("x"), late.LocalAddr())
	require.NoError(t, err)
	require.Equal(t, client.Ready{Read: clients{late}}, lean(selects(t, all, nil, all)))
}

func TestSelect_AllocatesNothingPerClient(t *testing.T) {
	allocs := func(n int) (nobody, one float64) {
		all := manyUDP(t, n)
		for range 3 {
			framed, _ := stream(t, "tcp", &client.Options{Framing: client.Delimiter{Delim: []byte("\n")}})
			secure, _ := stream(t, "tls", nil)
			all = append(all, framed, secure)
		}
		nobody = testing.AllocsPerRun(100, func() { _, _ = client.Select(all, nil, all, 0) })
		one = testing.AllocsPerRun(100, func() { _, _ = client.Select(all, all[:1], all, 0) })
		return nobody, one
	}
	few, fewOne := allocs(10)
	many, manyOne := allocs(500)
	t.Logf("allocations: %v for nobody, %v for one who is ready", few, fewOne)
	const noise = 10 // the race detector has sync.Pool forget now and then
	require.InDelta(t, few, many, noise)
	require.InDelta(t, fewOne, manyOne, noise)
}

// Several goroutines may wait for the same clients.
func TestSelect_ConcurrentOnTheSameClients(t *testing.T) {
	all := clients{}
	var peers []net.Conn
	for i := range 8 {
		c, peer := stream(t, []string{"tcp", "tls", "unix", "tls12"}[i%4], nil)
		all, peers = append(all, c), append(peers, peer)
	}
	const rounds = 50
	var wg sync.WaitGroup
	got := make(chan struct{}, rounds*len(all))
	ctx, cancel := context.WithCancel(context.Background())
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				ready, err := client.Select(all, nil, nil, time.Millisecond)
				if err != nil {
					continue
				}
				for _, c := range ready.Read {
					if n, _ := c.Recv(make([]byte, 1), client.DontWait); n == 1 {
						got <- struct{}{}
					}
				}
			}
		})
	}
	for range rounds {
		for _, peer := range peers {
			_, err := peer.Write([]byte("x"))
			require.NoError(t, err)
		}
	}
	for range rounds * len(all) {
		select {
		case <-got:
		case <-time.After(testTimeout):
			t.Fatal("a byte is lost")
		}
	}
	cancel()
	wg.Wait()
}

// One goroutine serves a hundred connections to one redis.
func TestSelect_HundredRedisConnections(t *testing.T) {
	_, addrs := startRedis(t)
	var all clients
	for i := range 100 {
		network := []string{"tcp", "unix"}[i%2]
		var opts client.Options
		if i%4 < 2 {
			opts.Framing = client.Delimiter{Delim: []byte("\r\n")}
		}
		all = append(all, dialServer(t, network, addrs[network], &opts))
	}
	got := make(map[*client.Client]string)
	sent := make(map[*client.Client]string)
	const each = 20
	want := func(i int) (s string) {
		for k := range each {
			word := fmt.Sprintf("%d-%d", i, k)
			s += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
		}
		return s
	}
	read, write := slices.Clone(all), slices.Clone(all)
	number := make(map[*client.Client]int)
	for i, c := range all {
		number[c] = i
	}
	for len(read) > 0 {
		ready := selects(t, read, write, nil)
		for _, c := range ready.Write {
			k := len(sent[c])
			_, err := fmt.Fprintf(c, "PING %d-%d\r\n", number[c], k)
			require.NoError(t, err)
			if sent[c] += "."; len(sent[c]) == each {
				write = slices.DeleteFunc(write, func(d *client.Client) bool { return d == c })
			}
		}
		for _, c := range ready.Read {
			p := make([]byte, 100)
			n, err := c.Recv(p, client.DontWait)
			require.NoError(t, err)
			if got[c] += string(p[:n]); len(got[c]) >= len(want(number[c])) {
				read = slices.DeleteFunc(read, func(d *client.Client) bool { return d == c })
			}
		}
	}
	for i, c := range all {
		require.Equal(t, want(i), got[c])
	}
}
