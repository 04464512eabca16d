package client_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// A lookupFunc is a resolver. As a function it cannot be compared.
type lookupFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

func (f lookupFunc) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return f(ctx, network, host)
}

// A fixedResolver knows the same addresses for each host, and counts the questions.
type fixedResolver struct {
	addrs []netip.Addr
	mu    sync.Mutex
	asked []string
}

func resolvesTo(addrs ...string) *fixedResolver {
	r := new(fixedResolver)
	for _, a := range addrs {
		r.addrs = append(r.addrs, netip.MustParseAddr(a))
	}
	return r
}

func (r *fixedResolver) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, network+" "+host)
	return r.addrs, nil
}

func TestResolver_AnyTypeFits(t *testing.T) {
	ln := listen(t, "tcp")
	for network, question := range map[string]string{"tcp": "ip some.host", "tcp4": "ip4 some.host"} {
		r := resolvesTo("127.0.0.1")
		c, err := client.Dial(network, "some.host:"+portOf(t, ln.Addr().String()), &client.Options{Resolver: r})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, []string{question}, r.asked)
	}

	r := resolvesTo("127.0.0.1", "::1")
	_, err := client.Dial("tcp6", "some.host:"+portOf(t, refused(t, "tcp")), &client.Options{Resolver: r})
	require.Error(t, err)
	require.Equal(t, []string{"ip6 some.host"}, r.asked)
	require.Equal(t, "127.0.0.1", r.addrs[0].String(), "the resolver's own slice is not changed")

	r = resolvesTo("127.0.0.1")
	c, err := client.NewTCP(&client.Options{Resolver: r})
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Connect(context.Background(), "some.host:"+portOf(t, ln.Addr().String())))
	require.Equal(t, []string{"ip4 some.host"}, r.asked)

	r = resolvesTo("127.0.0.1")
	c, err = client.Dial("tcp", ln.Addr().String(), &client.Options{Resolver: r})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Empty(t, r.asked, "an IP address is not looked up")
}

func TestResolver_NilPointerIsTheDefault(t *testing.T) {
	ln := listen(t, "tcp")
	var none *net.Resolver
	c, err := client.Dial("tcp", "localhost:"+portOf(t, ln.Addr().String()), &client.Options{Resolver: none})
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestResolver_AddressesAreTriedInOrder(t *testing.T) {
	tried := new(attempts)
	port := portOf(t, refused(t, "tcp"))
	_, err := client.Dial("tcp", "some.host:"+port, &client.Options{
		Resolver: resolvesTo("127.0.0.3", "127.0.0.1", "127.0.0.2"), Control: tried.record,
	})
	var all *client.DialError
	require.ErrorAs(t, err, &all)
	require.Equal(t, []string{"127.0.0.3:" + port, "127.0.0.1:" + port, "127.0.0.2:" + port}, tried.addresses)
}

func TestResolver_UnusableAddressesAreIgnored(t *testing.T) {
	ln := listen(t, "tcp")
	port := portOf(t, ln.Addr().String())
	r := resolvesTo("::ffff:127.0.0.1%eth0", "2001:db8::1%eth0", "::ffff:127.0.0.1")
	r.addrs = append(r.addrs, netip.Addr{})
	tried := new(attempts)
	c, err := client.Dial("tcp", "some.host:"+port, &client.Options{Resolver: r, Control: tried.record})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, []string{"127.0.0.1:" + port}, tried.addresses, "an IPv4-mapped address is an IPv4 address")

	var unusable *net.AddrError
	_, err = client.Dial("tcp6", "some.host:"+port, &client.Options{Resolver: r})
	require.ErrorAs(t, err, &unusable)
	_, err = client.Dial("tcp", "some.host:"+port, &client.Options{Resolver: &fixedResolver{addrs: make([]netip.Addr, 3)}})
	require.ErrorAs(t, err, &unusable)
}

func TestResolver_ErrorsAreReturned(t *testing.T) {
	own := errors.New("no luck")
	_, err := client.Dial("tcp", "some.host:80", &client.Options{Resolver: lookupFunc(func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, own
	})})
	require.ErrorIs(t, err, own)
	require.True(t, client.SafeToRetry(err))

	_, err = client.Dial("tcp", "some.host:80", &client.Options{Resolver: resolvesTo()})
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
	require.True(t, dns.IsNotFound)
	require.Equal(t, "some.host", dns.Name)
}

// A resolver that ignores its context does not keep the dial.
func TestResolver_LimitHoldsForAResolverThatIgnoresIt(t *testing.T) {
	const limit = 50 * time.Millisecond
	release, ended := make(chan struct{}), make(chan struct{}, 4)
	deaf := lookupFunc(func(context.Context, string, string) ([]netip.Addr, error) {
		defer func() { ended <- struct{}{} }()
		<-release
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	})
	for range 3 {
		began := time.Now()
		_, err := client.Dial("tcp", "some.host:80", &client.Options{Resolver: deaf, Timeout: limit})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(began), limit)
		var dns *net.DNSError
		require.ErrorAs(t, err, &dns)
		require.True(t, dns.IsTimeout)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := client.DialContext(ctx, "tcp", "some.host:80", &client.Options{Resolver: deaf, Timeout: -1})
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	for range cap(ended) {
		<-ended
	}

	_, err = client.Dial("tcp", "some.host:80", &client.Options{Timeout: limit, Resolver: lookupFunc(func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "and so for one that does not")
}

func TestResolver_PanicIsThatOfTheDial(t *testing.T) {
	panics := &client.Options{Resolver: &panicking{}}
	require.PanicsWithValue(t, "no resolver", func() { _, _ = client.Dial("tcp", "some.host:80", panics) })
	require.PanicsWithValue(t, "no resolver", func() {
		_, _ = newPool(t, client.PoolOptions{}).Dial(context.Background(), "tcp", "some.host:80", panics)
	})
	require.PanicsWithValue(t, "no resolver", func() {
		_, _ = client.Dial("tcp", "some.host:80", &client.Options{Resolver: panics.Resolver, Proxy: "socks5://some.host:1080"})
	})
	c, err := client.NewTCP(panics)
	require.NoError(t, err)
	require.PanicsWithValue(t, "no resolver", func() { _ = c.Connect(context.Background(), "some.host:80") })
	require.ErrorIs(t, c.Close(), net.ErrClosed)

	returned := make(chan bool, 1)
	go func() {
		ok := false
		defer func() { returned <- ok }()
		_, _ = client.Dial("tcp", "some.host:80", &client.Options{Resolver: lookupFunc(func(context.Context, string, string) ([]netip.Addr, error) {
			runtime.Goexit()
			return nil, nil
		})})
		ok = true
	}()
	require.False(t, <-returned)
}

type panicking struct{}

func (*panicking) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	panic("no resolver")
}

func TestResolver_PoolComparesThem(t *testing.T) {
	server := countedEcho(t, "tcp")
	address := "some.host:" + portOf(t, server.Addr().String())
	pool := newPool(t, client.PoolOptions{})
	use := func(r client.Resolver) (reused bool) {
		c, err := pool.Dial(context.Background(), "tcp", address, &client.Options{Resolver: r})
		require.NoError(t, err)
		asks(t, c, "x")
		require.NoError(t, c.Close())
		return c.Reused()
	}
	first, second := resolvesTo("127.0.0.1"), resolvesTo("127.0.0.1")
	require.False(t, use(first))
	require.True(t, use(first))
	require.False(t, use(second))
	require.True(t, use(second))

	cannot := lookupFunc(func(context.Context, string, string) ([]netip.Addr, error) { return slices.Clone(first.addrs), nil })
	for range 2 {
		_, err := pool.Dial(context.Background(), "tcp", address, &client.Options{Resolver: cannot})
		var option *client.OptionError
		require.ErrorAs(t, err, &option)
		require.Equal(t, "Resolver", option.Option)
	}
	c, err := client.Dial("tcp", address, &client.Options{Resolver: cannot})
	require.NoError(t, err, "without a pool nothing is compared")
	require.NoError(t, c.Close())
}
