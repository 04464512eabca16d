package client

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client/internal/sock"
	"github.com/stretchr/testify/require"
)

func TestAddress_SplitHostPort(t *testing.T) {
	for address, want := range map[string]struct {
		host string
		port uint16
	}{
		"127.0.0.1:80":        {"127.0.0.1", 80},
		"[::1]:65535":         {"::1", 65535},
		"[fe80::1%eth0]:1":    {"fe80::1%eth0", 1},
		"name.test:0":         {"name.test", 0},
		":53":                 {"", 53},
		"127.0.0.1:00000080":  {"127.0.0.1", 80},
		"with spaces in it:1": {"with spaces in it", 1},
		":http":               {"", 80},
		"host:HTTPS":          {"host", 443},
	} {
		host, port, err := networks["tcp"].splitHostPort(address)
		require.NoError(t, err, address)
		require.Equal(t, want.host, host)
		require.Equal(t, want.port, port)
	}
	for _, address := range []string{
		"", "host", "::1:80", "[::1]", "[::1:80", "host:", "host:-1", "host:+1", "host:65536",
		"host:70000", "host:99999999999999999999", "a:b:c",
	} {
		_, _, err := networks["tcp"].splitHostPort(address)
		var ae *net.AddrError
		require.ErrorAs(t, err, &ae, address)
	}
	for _, address := range []string{"host: 80", "host:8 0", "host:0x50", "host:no-such-service"} {
		_, _, err := networks["udp6"].splitHostPort(address)
		var unknown *net.DNSError
		require.ErrorAs(t, err, &unknown, address)
		require.True(t, unknown.IsNotFound)
		require.Equal(t, "unknown port", unknown.Err, "as package net has it")
	}
}

func TestLookup_RFC8305Order(t *testing.T) {
	addrs := func(list string) (out []sock.Addr) {
		for s := range strings.FieldsSeq(list) {
			out = append(out, sock.Addr{IP: netip.AddrPortFrom(netip.MustParseAddr(s), 1)})
		}
		return out
	}
	for in, want := range map[string]string{
		"::1":                             "::1",
		"::1 ::2 127.0.0.1 127.0.0.2":     "::1 127.0.0.1 ::2 127.0.0.2",
		"127.0.0.1 127.0.0.2 ::1":         "127.0.0.1 ::1 127.0.0.2",
		"127.0.0.1 127.0.0.2 127.0.0.3":   "127.0.0.1 127.0.0.2 127.0.0.3",
		"::3 127.0.0.1 ::1 ::2 127.0.0.2": "::3 127.0.0.1 ::1 127.0.0.2 ::2",
	} {
		v4, v6 := splitFamilies(addrs(in))
		require.Equal(t, addrs(want), interleave(v4, v6, !strings.Contains(strings.Fields(in)[0], ":")))
	}
}

func TestNetwork_AddressesItCanReach(t *testing.T) {
	resolved := func(network, address string) (string, error) {
		addrs, search, err := resolve(t.Context(), networks[network], nil, address, nil, sock.In(time.Second), nil)
		search.close()
		var out []string
		for _, a := range addrs {
			out = append(out, a.IP.String())
		}
		return strings.Join(out, " "), err
	}
	for _, test := range []struct{ network, address, want string }{
		{"tcp", "127.0.0.1:1", "127.0.0.1:1"},
		{"tcp", "[::ffff:127.0.0.1]:1", "127.0.0.1:1"},
		{"udp6", "[fe80::1%7]:1", "[fe80::1%7]:1"},
		{"tcp", ":1", "127.0.0.1:1 [::1]:1"},
		{"tcp6", ":1", "[::1]:1"},
		{"udp4", ":1", "127.0.0.1:1"},
	} {
		got, err := resolved(test.network, test.address)
		require.NoError(t, err)
		require.Equal(t, test.want, got)
	}
	for _, test := range []struct{ network, address string }{
		{"tcp4", "[::1]:1"}, {"tcp6", "127.0.0.1:1"}, {"tcp6", "[::ffff:127.0.0.1]:1"}, {"tcp", "127.0.0.1:0"},
	} {
		_, err := resolved(test.network, test.address)
		var ae *net.AddrError
		require.ErrorAs(t, err, &ae)
	}
}

func FuzzSplitHostPort(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "[::1]:1", "host", ":", "[fe80::1%eth0]:65535", "a:70000", "[]:1", "[[::1]]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		host, port, err := networks["tcp"].splitHostPort(address)
		theirHost, theirPort, theirErr := net.SplitHostPort(address)
		if theirErr != nil {
			require.Error(t, err)
			return
		}
		if err != nil {
			return
		}
		require.Equal(t, theirHost, host)
		require.NotEmpty(t, theirPort)
		again, port2, err := networks["tcp"].splitHostPort(net.JoinHostPort(host, theirPort))
		require.NoError(t, err)
		require.Equal(t, host, again)
		require.Equal(t, port, port2)
	})
}

func FuzzParseLocal(f *testing.F) {
	for _, s := range []string{"127.0.0.1:0", "[::1]:1", ":0", "[::ffff:1.2.3.4]:5", "name:1", "/path", "@name", "[fe80::1%lo]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		for name, n := range networks {
			a, err := n.parseLocal(address)
			if err != nil {
				require.True(t, a.IsZero(), "%s: an address with an error", name)
				continue
			}
			if !a.IP.Addr().IsValid() && n.local == 0 {
				continue // a port alone
			}
			typ := n.typeOf(a)
			require.NotZero(t, typ, "%s: %v is of no type", name, a)
			if typ.isUnix() {
				require.Equal(t, address, a.Path)
				continue
			}
			back, err := n.parseLocal(a.IP.String())
			require.NoError(t, err)
			require.Equal(t, a, back)
		}
	})
}

func FuzzParseUnix(f *testing.F) {
	for _, s := range []string{"/tmp/s", "@abstract", "", "@", "a\x00b", "@\x00", strings.Repeat("x", sock.MaxPath+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		a, err := parseUnix(address)
		if err != nil {
			var ae *net.AddrError
			require.ErrorAs(t, err, &ae)
			return
		}
		require.Equal(t, address, a.Path, "never cut, never changed")
		require.LessOrEqual(t, len(a.Path), sock.MaxPath)
	})
}

func TestLookup_SharedWhileTheResolverIsTheSame(t *testing.T) {
	a, b := new(net.Resolver), &net.Resolver{PreferGo: true}
	require.Same(t, cancelableResolverFor(a), cancelableResolverFor(a))
	require.NotSame(t, cancelableResolverFor(a), cancelableResolverFor(b))
	require.True(t, cancelableResolverFor(b).preferGo)
	b.StrictErrors = true
	require.True(t, cancelableResolverFor(b).strictErrors)
}

func TestOptions_DefaultLimits(t *testing.T) {
	five := DefaultTimeout
	require.Equal(t, limits{five, five, five}, (&Options{}).limits())
	require.Equal(t, limits{-1, -1, -1}, (&Options{Timeout: -1}).limits())
	require.Equal(t, limits{1, 2, 3}, (&Options{Timeout: 9, ConnectTimeout: 1, RecvTimeout: 2, SendTimeout: 3}).limits())
	require.Equal(t, limits{9, -1, 9}, (&Options{Timeout: 9, RecvTimeout: -1}).limits())
}
