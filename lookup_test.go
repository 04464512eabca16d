package client_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// A family is what a DNS server does with the questions for one family of addresses.
type family struct {
	addrs  []string
	rcode  dnsmessage.RCode // without addrs; success is an answer without records
	silent bool
	after  <-chan struct{} // the answer waits for it; nil: at once
}

// zoneServer serves the name "host.test." and counts the questions.
type zoneServer struct {
	*net.Resolver
	mu    sync.Mutex
	asked map[dnsmessage.Type]int
}

func serveZone(t testing.TB, v4, v6 family) *zoneServer {
	t.Helper()
	pc := packetPeer(t, "udp")
	z := &zoneServer{asked: make(map[dnsmessage.Type]int)}
	z.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			z.mu.Lock()
			z.asked[q.Type]++
			z.mu.Unlock()
			f := v4
			if q.Type == dnsmessage.TypeAAAA {
				f = v6
			}
			if f.silent {
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals, m.RCode = true, true, nil, f.rcode
			h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 1}
			for _, a := range f.addrs {
				if ip := netip.MustParseAddr(a); ip.Is4() {
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
				} else {
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
				}
			}
			reply, err := m.Pack()
			if err != nil {
				continue
			}
			if f.after == nil {
				_, _ = pc.WriteTo(reply, from)
				continue
			}
			wg.Go(func() {
				select {
				case <-f.after:
					_, _ = pc.WriteTo(reply, from)
				case <-stop:
				}
			})
		}
	})
	t.Cleanup(func() { close(stop); _ = pc.Close(); wg.Wait() })
	return z
}

func (z *zoneServer) questions(typ dnsmessage.Type) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[typ]
}

// samePort makes listeners of both families on one port.
func samePort(t testing.TB) (v4, v6 net.Listener, port string) {
	t.Helper()
	for range 100 {
		v6 = listen(t, "tcp6")
		_, port, _ = net.SplitHostPort(v6.Addr().String())
		var err error
		if v4, err = net.Listen("tcp4", "127.0.0.1:"+port); err == nil {
			t.Cleanup(func() { _ = v4.Close() })
			return v4, v6, port
		}
	}
	t.Fatal("no port is free for both families")
	return nil, nil, ""
}

// A DNS server, or a firewall before it, may answer A queries and drop AAAA queries. The
// dial waited for the second answer until its limit, although it had an address. RFC
// 8305, section 3.
func TestLookup_UnansweredFamilyDoesNotDelayTheOther(t *testing.T) {
	_, _, port := samePort(t)
	for name, zone := range map[string]*zoneServer{
		"IPv6":       serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{silent: true}),
		"IPv4":       serveZone(t, family{silent: true}, family{addrs: []string{"::1"}}),
		"IPv6 fails": serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{rcode: dnsmessage.RCodeServerFailure}),
		"IPv4 none":  serveZone(t, family{}, family{addrs: []string{"::1"}}),
	} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(name+" "+network, func(t *testing.T) {
				before := runtime.NumGoroutine()
				begin := time.Now()
				c, err := client.Dial(network, "host.test.:"+port, &client.Options{Resolver: zone.Resolver, Timeout: -1})
				took := time.Since(begin)
				require.NoError(t, err)
				require.NoError(t, c.Close())
				require.Less(t, took, 4*time.Second, "the resolver's own limit is 5 s and more")
				if name == "IPv6" {
					require.GreaterOrEqual(t, took, 50*time.Millisecond, "a moment for the IPv6 addresses: RFC 8305, section 8")
				}
				// Nothing of the question is left, which nobody answers.
				require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 2*time.Second, time.Millisecond)
			})
		}
	}
}

// The name of the proxy is looked up in the same way.
func TestLookup_ProxyNameWithAnUnansweredFamily(t *testing.T) {
	zone := serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{silent: true})
	p := &fakeProxy{reply: socksGranted}
	address, _ := p.serve(t, p.socks5)
	c, err := client.Dial("tcp", "192.0.2.1:http", &client.Options{
		Resolver: zone.Resolver, Timeout: testTimeout, Proxy: "socks5://host.test.:" + portOf(t, address),
	})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, "192.0.2.1:80", p.target, "a proxy is told the number of a service")
}

// A dial for one family sends one query. A dial to an IP address sends none.
func TestLookup_AsksOnlyForUsableFamilies(t *testing.T) {
	_, _, port := samePort(t)
	both := family{addrs: []string{"::1"}}
	for _, test := range []struct {
		network, host, local string
		a, aaaa              int
	}{
		{"tcp4", "host.test.", "", 1, 0}, {"tcp6", "host.test.", "", 0, 1}, {"udp4", "host.test.", "", 1, 0},
		{"tcp", "host.test.", "127.0.0.1:0", 1, 0}, {"tcp", "host.test.", "[::1]:0", 0, 1},
		{"tcp", "host.test.", "", 1, 1}, {"tcp", "127.0.0.1", "", 0, 0}, {"tcp", "", "", 0, 0},
	} {
		zone := serveZone(t, family{addrs: []string{"127.0.0.1"}}, both)
		c, err := client.Dial(test.network, net.JoinHostPort(test.host, port), &client.Options{Resolver: zone.Resolver, LocalAddr: test.local})
		require.NoError(t, err, test.network)
		require.NoError(t, c.Close())
		require.Equal(t, []int{test.a, test.aaaa}, []int{zone.questions(dnsmessage.TypeA), zone.questions(dnsmessage.TypeAAAA)}, "%v", test)
	}
	zone := serveZone(t, family{silent: true}, family{addrs: []string{"::1"}})
	c, err := client.NewTCP6(&client.Options{Resolver: zone.Resolver})
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Connect(t.Context(), "host.test.:"+port))
	require.Zero(t, zone.questions(dnsmessage.TypeA))
}

// RFC 8305, section 5: addresses that become known during the dial are tried too.
func TestLookup_LateAddressJoinsTheDial(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	ln, err := net.Listen("tcp6", "[::1]:"+portOf(t, hole))
	require.NoError(t, err)
	defer ln.Close()
	for name, delay := range map[string]time.Duration{"racing": 0, "one at a time": -1} {
		t.Run(name, func(t *testing.T) {
			started := make(chan struct{})
			var tried attempts
			zone := serveZone(t, family{addrs: []string{"127.0.0.1", "127.0.0.1"}}, family{addrs: []string{"::1"}, after: started})
			c, err := client.Dial("tcp", "host.test.:"+portOf(t, hole), &client.Options{
				Resolver: zone.Resolver, Timeout: 4 * time.Second, FallbackDelay: delay,
				Control: func(network, address string, raw syscall.RawConn) error {
					if len(tried.at) == 0 {
						close(started) // only now is the other question answered
					}
					return tried.record(network, address, raw)
				},
			})
			require.NoError(t, err)
			defer c.Close()
			require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
			require.Equal(t, []string{hole, ln.Addr().String()}, tried.addresses, "families take turns")
			least := 240 * time.Millisecond
			if delay < 0 {
				least = time.Second // a third of the limit
			}
			require.GreaterOrEqual(t, tried.at[1].Sub(tried.at[0]), least)
		})
	}
}

// The dial does not end with a refusal as long as other addresses may follow.
func TestLookup_DialWaitsForLateAddressesAfterFailures(t *testing.T) {
	inParallelIfShort(t)
	port := portOf(t, refused(t, "tcp"))
	ln, err := net.Listen("tcp6", "[::1]:"+port)
	require.NoError(t, err)
	defer ln.Close()
	refusals := make(chan struct{})
	zone := serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{addrs: []string{"::1"}, after: refusals})
	answered := zone
	go func() {
		for answered.questions(dnsmessage.TypeA) == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond) // the address is known, tried and has refused by then
		close(refusals)
	}()
	c, err := client.Dial("tcp", "host.test.:"+port, &client.Options{Resolver: zone.Resolver, Timeout: testTimeout})
	require.NoError(t, err)
	require.NoError(t, c.Close())

	// Without any the error says both.
	const limit = 200 * time.Millisecond
	zone = serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{silent: true})
	begin := time.Now()
	_, err = client.Dial("tcp", "host.test.:"+port, &client.Options{Resolver: zone.Resolver, Timeout: limit})
	require.GreaterOrEqual(t, time.Since(begin), limit)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.ErrorContains(t, err, "lookup host.test.: i/o timeout")

	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := client.DialContext(ctx, "tcp", "host.test.:"+port, &client.Options{Resolver: zone.Resolver, Timeout: -1})
		result <- err
	}()
	inKernel(t)
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
}

// A host does not exist only if both answers say so.
func TestLookup_ErrorOfTwoQueries(t *testing.T) {
	inParallelIfShort(t)
	missing := family{rcode: dnsmessage.RCodeNameError}
	broken := family{rcode: dnsmessage.RCodeServerFailure}
	const limit = 150 * time.Millisecond
	for name, test := range map[string]struct {
		v4, v6            family
		notFound, timeout bool
	}{
		"no such name":             {missing, missing, true, false},
		"no addresses":             {family{}, family{}, true, false},
		"IPv4 broken":              {broken, missing, false, false},
		"IPv6 broken":              {missing, broken, false, false},
		"IPv4 silent":              {family{silent: true}, missing, false, true},
		"IPv6 silent":              {missing, family{silent: true}, false, true},
		"IPv6 silent, IPv4 broken": {broken, family{silent: true}, false, true},
		"both silent":              {family{silent: true}, family{silent: true}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			zone := serveZone(t, test.v4, test.v6)
			opts := &client.Options{Resolver: zone.Resolver, Timeout: testTimeout}
			if test.timeout {
				opts.Timeout = limit
			}
			begin := time.Now()
			_, err := client.Dial("tcp", "host.test.:1", opts)
			var dns *net.DNSError
			require.ErrorAs(t, err, &dns)
			require.Equal(t, test.notFound, dns.IsNotFound)
			var op net.Error
			require.ErrorAs(t, err, &op)
			require.Equal(t, test.timeout, op.Timeout() && !dns.IsNotFound && os.IsTimeout(err))
			if test.timeout {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.GreaterOrEqual(t, time.Since(begin), limit)
			}
			require.True(t, client.SafeToRetry(err))
		})
	}
}

// With net.Resolver.StrictErrors, a temporary error of one family fails the lookup.
func TestLookup_StrictErrorsFailsWithOneFamily(t *testing.T) {
	inParallelIfShort(t)
	_, _, port := samePort(t)
	known := map[string]family{"v4": {addrs: []string{"127.0.0.1"}}, "v6": {addrs: []string{"::1"}}}
	broken := family{rcode: dnsmessage.RCodeServerFailure}
	for _, zone := range []*zoneServer{serveZone(t, known["v4"], broken), serveZone(t, broken, known["v6"])} {
		for _, strict := range []bool{true, false} {
			zone.StrictErrors = strict
			c, err := client.Dial("tcp", "host.test.:"+port, &client.Options{Resolver: zone.Resolver, Timeout: testTimeout})
			if !strict {
				require.NoError(t, err)
				require.NoError(t, c.Close())
				continue
			}
			_, theirs := zone.LookupNetIP(t.Context(), "ip", "host.test.")
			require.Error(t, theirs)
			require.ErrorContains(t, err, theirs.Error())
		}
	}
	zone := serveZone(t, known["v4"], family{silent: true})
	zone.StrictErrors = true
	var tried attempts
	_, err := client.Dial("tcp", "host.test.:"+port, &client.Options{Resolver: zone.Resolver, Timeout: 200 * time.Millisecond, Control: tried.record})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Empty(t, tried.addresses, "who is strict waits for both")
}

// Part of a short limit is left for the attempts even if one family is not answered. The
// wait for it used up all of the limit.
func TestLookup_ShortLimitLeavesTimeForAnAttempt(t *testing.T) {
	_, _, port := samePort(t)
	for name, zone := range map[string]*zoneServer{
		"IPv6": serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{silent: true}),
		"IPv4": serveZone(t, family{silent: true}, family{addrs: []string{"::1"}}),
	} {
		for _, limit := range []time.Duration{20 * time.Millisecond, 40 * time.Millisecond, 49 * time.Millisecond} {
			if name == "IPv4" {
				limit /= 10
			}
			for tries := 1; ; tries++ { // so little can go by in a busy machine
				c, err := client.Dial("tcp", "host.test.:"+port, &client.Options{Resolver: zone.Resolver, ConnectTimeout: limit})
				if err == nil {
					require.NoError(t, c.Close())
					break
				}
				require.Less(t, tries, 200, "%s, %v: %v", name, limit, err)
			}
		}
	}
}

// One lookup serves all dials of a name. A dial that joins after one family has been
// answered gets that answer too.
func TestLookup_JoiningDialGetsEarlyAnswers(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	ln := listen(t, "tcp")
	zone := serveZone(t, family{addrs: []string{"127.0.0.1"}}, family{silent: true})
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		_, err := client.DialContext(ctx, "tcp", "host.test.:"+portOf(t, hole), &client.Options{
			Resolver: zone.Resolver, Timeout: -1,
			Control: func(string, string, syscall.RawConn) error { close(started); return nil },
		})
		result <- err
	}()
	<-started
	dial := func() {
		begin := time.Now()
		c, err := client.Dial("tcp", "host.test.:"+portOf(t, ln.Addr().String()), &client.Options{Resolver: zone.Resolver, Timeout: -1})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Less(t, time.Since(begin), 4*time.Second, "the resolver's own limit is 5 s and more")
	}
	for range 3 {
		dial()
	}
	require.Equal(t, 1, zone.questions(dnsmessage.TypeA), "it is asked once for all")
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
	dial() // and a lookup of its own
	require.Equal(t, 2, zone.questions(dnsmessage.TypeA))
}

// Package net sorts the addresses of both families by RFC 6724. The dial begins with the
// same address.
func TestLookup_FirstAddressIsThatOfPackageNet(t *testing.T) {
	for _, test := range [][2]string{{"127.0.0.1", "::1"}, {"127.0.0.1", "2001:db8::1"}, {"192.0.2.1", "::1"}, {"127.0.0.1", "fd77::1"}} {
		r := names(t, map[string][]string{"host.test.": test[:]})
		ips, err := r.LookupNetIP(t.Context(), "ip", "host.test.")
		require.NoError(t, err)
		require.Len(t, ips, 2)
		var tried attempts
		_, err = client.Dial("tcp", "host.test.:1", &client.Options{Resolver: r, Control: func(network, address string, raw syscall.RawConn) error {
			_ = tried.record(network, address, raw)
			return unix.EPERM // nothing is sent
		}})
		require.ErrorIs(t, err, unix.EPERM)
		want := make([]string, 2)
		for i, ip := range ips {
			want[i] = netip.AddrPortFrom(ip.Unmap(), 1).String()
		}
		require.Equal(t, want, tried.addresses, "each once")
	}
}

func TestFallbackDelay_IsTheTimeBetweenAttempts(t *testing.T) {
	inParallelIfShort(t)
	hole := blackHole(t, "tcp", "127.0.0.1")
	port := portOf(t, hole)
	ln, err := net.Listen("tcp", "127.0.0.2:"+port)
	require.NoError(t, err)
	defer ln.Close()
	resolver := names(t, map[string][]string{"two.test.": {"127.0.0.1", "127.0.0.2"}})
	for _, test := range []struct{ delay, timeout, least time.Duration }{
		{0, -1, 250 * time.Millisecond},
		{20 * time.Millisecond, -1, 20 * time.Millisecond},
		{700 * time.Millisecond, -1, 700 * time.Millisecond},
		{time.Hour, 900 * time.Millisecond, 300 * time.Millisecond}, // each has its chance
		{-1, 900 * time.Millisecond, 450 * time.Millisecond},        // half of it
	} {
		var tried attempts
		c, err := client.Dial("tcp", "two.test.:"+port, &client.Options{
			Timeout: test.timeout, FallbackDelay: test.delay, Resolver: resolver, Control: tried.record,
		})
		require.NoError(t, err, "%v", test)
		require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
		require.NoError(t, c.Close())
		require.Len(t, tried.at, 2)
		// A lookup takes a part of the limit.
		require.GreaterOrEqual(t, tried.at[1].Sub(tried.at[0]), test.least-test.least/4)
		if test.delay > 0 && test.timeout < 0 {
			require.GreaterOrEqual(t, tried.at[1].Sub(tried.at[0]), test.delay)
		}
	}
}

// Without racing there is one attempt at a time, and each has its share of the limit.
func TestFallbackDelay_NegativeMeansOneAttemptAtATime(t *testing.T) {
	hole := blackHole(t, "tcp", "127.0.0.1")
	const limit = 300 * time.Millisecond
	open := 0
	count := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return 0
		}
		return len(entries)
	}
	begin := time.Now()
	_, err := client.Dial("tcp", "three.test.:"+portOf(t, hole), &client.Options{
		Timeout: limit, FallbackDelay: -1,
		Resolver: names(t, map[string][]string{"three.test.": {"127.0.0.1", "127.0.0.1", "127.0.0.1"}}),
		Control: func(string, string, syscall.RawConn) error {
			if n := count(); open == 0 {
				open = n
			} else {
				require.LessOrEqual(t, n, open, "the socket before is closed")
			}
			return nil
		},
	})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(begin), limit)
	var all *client.DialError
	require.ErrorAs(t, err, &all)
	require.Len(t, all.Errs, 3)
	for _, one := range all.Errs {
		require.NotContains(t, one.Error(), "not tried")
	}
}

// noDescriptors is the part of TestLookup_OutOfDescriptorsIsReported that runs in a
// process of its own: it uses up all descriptors and looks a name up.
func noDescriptors(name string) error {
	if r, w, err := os.Pipe(); err == nil { // the runtime opens its own before, or dies
		_, _ = r.Close(), w.Close()
	}
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	for {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		defer unix.Close(fd)
	}
	for _, r := range []*net.Resolver{nil, {PreferGo: true}} {
		for _, address := range []string{name + ":1", "127.0.0.1:ftp-data"} {
			_, err := client.Dial("tcp", address, &client.Options{Resolver: r})
			fmt.Printf("%v: %v\n", address, err)
		}
	}
	return nil
}

// A process without descriptors cannot send a query. The error used to be that the host
// does not exist.
func TestLookup_OutOfDescriptorsIsReported(t *testing.T) {
	for _, name := range []string{"localhost", "host.invalid"} {
		out, err := helperCommand(t, "nodescriptors "+name).Output()
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		require.Len(t, lines, 4)
		for _, line := range lines {
			require.Contains(t, line, "too many open files")
			require.NotContains(t, line, "no such host")
		}
	}
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE} {
		_, err := client.Dial("tcp", "host.test.:1", &client.Options{Resolver: &net.Resolver{
			PreferGo: true,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("socket", errno)}
			},
		}})
		require.ErrorIs(t, err, errno, "also where it is only for a moment")
		require.ErrorContains(t, err, "host.test.")
		require.True(t, client.SafeToRetry(err))
	}
}
