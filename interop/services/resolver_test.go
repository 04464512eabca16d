package services

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

// newResolver gives a resolver that asks one server, whatever the machine's own are.
func newResolver(dial dialFunc, s *testserver.Server) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, s.Addr)
	}}
}

// through gives a dial function that dials a network whatever it is asked for.
func through(network string, dial dialFunc) dialFunc {
	return func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, network, address) }
}

func TestResolver_FindsAllRecordTypes(t *testing.T) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		r := newResolver(through(network, dial), s)
		hosts, err := r.LookupHost(within(t), "c.test.")
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"192.0.2.1", "2001:db8::1"}, hosts)
		name, err := r.LookupCNAME(within(t), "c.test.")
		require.NoError(t, err)
		require.Equal(t, "a.test.", name)
		mxs, err := r.LookupMX(within(t), "m.test.")
		require.NoError(t, err)
		require.Equal(t, []*net.MX{{Host: "a.test.", Pref: 10}}, mxs)
		_, srvs, err := r.LookupSRV(within(t), "s", "tcp", "test.")
		require.NoError(t, err)
		require.Equal(t, []*net.SRV{{Target: "a.test.", Port: 99, Priority: 1, Weight: 2}}, srvs)
		names, err := r.LookupAddr(within(t), "192.0.2.1")
		require.NoError(t, err)
		require.Equal(t, []string{"a.test."}, names)

		_, err = r.LookupHost(within(t), "none.test.")
		var de *net.DNSError
		require.ErrorAs(t, err, &de)
		require.True(t, de.IsNotFound)
	})
}

// The resolver asks for 1232 bytes over UDP, and over TCP if that was not enough.
func TestResolver_RetriesTruncatedAnswersOverTCP(t *testing.T) {
	s := startDnsmasq(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		var mu sync.Mutex
		var dialled []string
		r := newResolver(func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dialled = append(dialled, network)
			return dial(ctx, network, address)
		}, s)
		for name, want := range map[string][]string{"mid.test.": midTexts, "huge.test.": hugeTexts} {
			dialled = nil
			got, err := r.LookupTXT(within(t), name)
			require.NoError(t, err)
			slices.Sort(got)
			require.Equal(t, want, got)
			require.Equal(t, []string{"udp", "tcp"}, dialled)
		}
	})
}

func TestResolver_ServesManyGoroutines(t *testing.T) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		r := newResolver(through(network, dial), s)
		all(t, 8, func(int) error { // two connections each, of 20 that dnsmasq has processes for
			for range 20 {
				hosts, err := r.LookupHost(within(t), "a.test.")
				if err != nil {
					return err
				}
				if slices.Sort(hosts); !slices.Equal(hosts, []string{"192.0.2.1", "2001:db8::1"}) {
					return errors.New("a.test is somewhere else")
				}
			}
			return nil
		})
	})
}

func TestResolver_DeadlineEndsALookup(t *testing.T) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		r := newResolver(through(network, dial), s)
		thaw := freeze(t, s)
		_, err := timed(t, limit, func() ([]*net.MX, error) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			return r.LookupMX(ctx, "m.test.")
		})
		var de *net.DNSError
		require.ErrorAs(t, err, &de)
		require.True(t, de.IsTimeout)
		thaw()
		mxs, err := r.LookupMX(within(t), "m.test.")
		require.NoError(t, err)
		require.Equal(t, []*net.MX{{Host: "a.test.", Pref: 10}}, mxs)
	})
}

// A lookup of addresses is left by who asked for it; the resolver itself goes on, until
// it is answered or its own 5 seconds are over.
func TestResolver_CancelEndsALookup(t *testing.T) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		r := newResolver(through(network, dial), s)
		thaw := freeze(t, s)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		found := inBackground(func() error {
			_, err := r.LookupIPAddr(ctx, "a.test.")
			return err
		})
		awaitRequest(t, network, s)
		cancel()
		err := result(t, found)
		var de *net.DNSError
		require.ErrorAs(t, err, &de)
		require.ErrorIs(t, err, context.Canceled)
		thaw()
		ips, err := r.LookupIPAddr(within(t), "a.test.")
		require.NoError(t, err)
		require.Len(t, ips, 2)
	})
}

func TestResolver_GoroutinesOutliveServerRestart(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		s := startDnsmasq(t)
		r := newResolver(through(network, dial), s)
		throughRestart(t, s, 4, func(int) error {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			_, err := r.LookupHost(ctx, "a.test.")
			return err
		})
	})
}
