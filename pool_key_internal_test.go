package client

import (
	"crypto/tls"
	"net"
	"net/netip"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every field of Options and of TLSOptions is part of a pool's key, except those about
// the use of a connection. A new field must be listed here or compared in sameKey.
func TestPoolKey_IncludesEveryConnectionOption(t *testing.T) {
	use := map[string]bool{
		"Timeout": true, "ConnectTimeout": true, "RecvTimeout": true, "SendTimeout": true, "Framing": true, "FallbackDelay": true,
		"PoolKey": true, // a part of the place
		"Trace":   true,
	}
	other := map[string]any{ // what no default value is like
		"KeepAlive": &net.KeepAliveConfig{}, "Resolver": &net.Resolver{}, "TLS": &TLSOptions{},
		"Multicast": &Multicast{}, "Trace": &Trace{},
		"Control":    func(string, string, syscall.RawConn) error { return nil },
		"NextProtos": []string{"h2"}, "Config": &tls.Config{},
	}
	set := func(f reflect.Value, name string) {
		if v, ok := other[name]; ok {
			f.Set(reflect.ValueOf(v))
			return
		}
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int, reflect.Int8, reflect.Int64:
			f.SetInt(1)
		case reflect.Uint8, reflect.Uint16, reflect.Uint32:
			f.SetUint(1)
		default:
			t.Fatalf("no value for %s", name)
		}
	}
	none := &Options{}
	for i := range reflect.TypeFor[Options]().NumField() {
		name := reflect.TypeFor[Options]().Field(i).Name
		var o Options
		if v := reflect.ValueOf(&o).Elem().Field(i); name == "Framing" {
			o.Framing = Delimiter{Delim: []byte("x")}
		} else {
			set(v, name)
		}
		require.Equal(t, use[name], none.sameKey(&o), name)
	}
	withTLS := &Options{TLS: &TLSOptions{}}
	require.True(t, withTLS.sameKey(withTLS.clone()))
	for i := range reflect.TypeFor[TLSOptions]().NumField() {
		name := reflect.TypeFor[TLSOptions]().Field(i).Name
		var changed TLSOptions
		set(reflect.ValueOf(&changed).Elem().Field(i), name)
		require.False(t, withTLS.sameKey(&Options{TLS: &changed}), name)
	}
	// What pointers are to counts, and not that they differ.
	keep := func() *Options {
		return &Options{
			KeepAlive: &net.KeepAliveConfig{Enable: true, Idle: time.Second},
			Multicast: &Multicast{Interface: "lo", Groups: []netip.Addr{netip.MustParseAddr("239.0.0.1")}},
		}
	}
	require.True(t, keep().sameKey(keep()))
	changed := keep()
	changed.Multicast.Groups[0] = netip.MustParseAddr("239.0.0.2")
	require.False(t, keep().sameKey(changed))
	require.False(t, none.sameKey(&Options{KeepAlive: &net.KeepAliveConfig{}}), "none is the defaults, which are on")

	// A copy is not changed with what it was made of.
	first := keep()
	first.TLS = &TLSOptions{NextProtos: []string{"a"}}
	c := first.clone()
	first.KeepAlive.Enable, first.Multicast.Groups[0], first.TLS.NextProtos[0] = false, netip.Addr{}, "b"
	require.Equal(t, keep().KeepAlive, c.KeepAlive)
	require.Equal(t, keep().Multicast, c.Multicast)
	require.Equal(t, []string{"a"}, c.TLS.NextProtos)
}
