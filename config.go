package client

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"runtime"
	"slices"
	"time"

	"github.com/blocksock/client/internal/frame"
	"github.com/blocksock/client/internal/proxy"
	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// A dialConfig is Options for one network: checked and parsed, with the files that they
// name loaded. It is made before there is a socket.
type dialConfig struct {
	opts  *Options
	net   network
	local *sock.Addr    // nil: the system's choice
	proxy *proxy.Config // nil: no proxy
	tls   *tlsConfig    // nil: no TLS

	frames *frame.Buffer  // nil: no framing
	target unresolvedAddr // as the caller of Dial wrote it
	trace  *Trace         // of Options and the context; nil: none
	parks  bool           // waits hold no thread
}

// dialConfig fails with an *OptionError if n's sockets do not have an option, or if its
// value cannot be used.
func (o *Options) dialConfig(n network) (*dialConfig, error) {
	if o.TLS != nil && !n.isStream() {
		return nil, &OptionError{Option: "TLS", Reason: "only for streams, not for " + n.name + ": for udp use dtls.Dial of github.com/blocksock/client/dtls"}
	}
	err := o.checkValues()
	if err == nil {
		err = o.checkNetwork(n)
	}
	if err != nil {
		return nil, err
	}
	d := &dialConfig{opts: o, net: n}
	if d.proxy, err = o.proxyConfig(n); err != nil {
		return nil, err
	}
	if d.proxy != nil {
		n = networks["tcp"] // LocalAddr is for the connection to the proxy
	}
	if o.LocalAddr != "" {
		local, err := n.parseLocal(o.LocalAddr)
		if err != nil {
			return nil, &OptionError{Option: "LocalAddr", Reason: err.Error()}
		}
		d.local = &local
	}
	if d.frames, err = o.frames(n.name); err != nil {
		return nil, err
	}
	if o.TLS != nil {
		d.tls, err = o.TLS.load()
	}
	return d, err
}

// checkNetwork refuses options that are set and that n's sockets, or this system, do not
// have.
func (o *Options) checkNetwork(n network) error {
	const linux = runtime.GOOS == "linux"
	tcp, ip := n.isTCP(), n.local == 0
	udp := ip && !tcp
	for _, option := range []struct {
		name      string
		set       bool
		inNetwork bool
		networks  string
		inSystem  bool
	}{
		{"NoDelay", o.NoDelay != SwitchDefault, tcp, "tcp", true},
		{"KeepAlive", o.KeepAlive != nil, tcp, "tcp", true},
		{"UserTimeout", o.UserTimeout != 0, tcp, "tcp", linux},
		{"FastOpen", o.FastOpen, tcp, "tcp", linux},
		{"QuickAck", o.QuickAck != SwitchDefault, tcp, "tcp", linux},
		{"MPTCP", o.MPTCP, tcp, "tcp", linux},
		{"Linger", o.Linger != 0, tcp, "tcp", true},
		{"ReuseAddr", o.ReuseAddr != SwitchDefault, ip, "tcp and udp", true},
		{"TOS", o.TOS != 0, ip, "tcp and udp", true},
		{"TTL", o.TTL != 0, ip, "tcp and udp", true},
		{"Mark", o.Mark != 0, ip, "tcp and udp", linux},
		{"Device", o.Device != "", ip, "tcp and udp", linux},
		{"BusyPoll", o.BusyPoll != 0, ip, "tcp and udp", linux},
		{"Unconnected", o.Unconnected, !n.isStream(), "udp and unixgram", true},
		{"Broadcast", o.Broadcast, udp && n.v4 != 0, "udp over IPv4", true},
		{"Multicast", o.Multicast != nil, udp, "udp", true},
		{"ICMPErrors", o.ICMPErrors, udp, "udp", linux},
		{"GRO", o.GRO, udp, "udp", true},
	} {
		switch {
		case option.set && !option.inNetwork:
			return &OptionError{Option: option.name, Reason: "only for " + option.networks + ", not for " + n.name}
		case option.set && !option.inSystem:
			return &OptionError{Option: option.name, Reason: "not available on " + runtime.GOOS}
		}
	}
	return nil
}

// checkValues refuses values that have no meaning.
func (o *Options) checkValues() error {
	for name, s := range map[string]Switch{"NoDelay": o.NoDelay, "QuickAck": o.QuickAck, "ReuseAddr": o.ReuseAddr} {
		if !s.isValid() {
			return &OptionError{Option: name, Reason: s.invalid()}
		}
	}
	for name, n := range map[string]int64{
		"RecvBuffer": int64(o.RecvBuffer), "SendBuffer": int64(o.SendBuffer),
		"UserTimeout": int64(o.UserTimeout), "BusyPoll": int64(o.BusyPoll),
	} {
		if n < 0 {
			return &OptionError{Option: name, Reason: fmt.Sprintf("%d is negative", n)}
		}
	}
	if err := o.checkRanges(); err != nil {
		return err
	}
	if o.Device != "" && !sock.IsInterfaceName(o.Device) {
		return badInterfaceName("Device", o.Device)
	}
	if m := o.Multicast; m != nil {
		if m.Interface != "" && !sock.IsInterfaceName(m.Interface) {
			return badInterfaceName("Multicast", m.Interface)
		}
		if !m.Loopback.isValid() {
			return &OptionError{Option: "Multicast", Reason: "Loopback: " + m.Loopback.invalid()}
		}
		for _, g := range m.Groups {
			if !g.IsMulticast() || g.Is4In6() && g.Zone() != "" {
				return &OptionError{Option: "Multicast", Reason: g.String() + " is not a multicast address"}
			}
		}
	}
	return nil
}

func (s Switch) isValid() bool { return s >= SwitchDefault && s <= SwitchOff }

func (s Switch) invalid() string {
	return fmt.Sprintf("%d is not a Switch: use SwitchDefault, SwitchOn or SwitchOff", s)
}

// checkRanges refuses numbers that do not fit into the int that the kernel takes.
func (o *Options) checkRanges() error {
	k := o.keepAlive()
	for _, v := range []struct {
		name, what string
		n, most    int64
	}{
		{"RecvBuffer", "bytes", int64(o.RecvBuffer), math.MaxInt32},
		{"SendBuffer", "bytes", int64(o.SendBuffer), math.MaxInt32},
		{"UserTimeout", "milliseconds", units(o.UserTimeout, time.Millisecond), math.MaxInt32},
		{"BusyPoll", "microseconds", units(o.BusyPoll, time.Microsecond), math.MaxInt32},
		{"Linger", "seconds", units(o.Linger, time.Second), math.MaxInt32},
		{"KeepAlive", "seconds of Idle", units(k.Idle, time.Second), sock.MaxKeepAlive},
		{"KeepAlive", "seconds of Interval", units(k.Interval, time.Second), sock.MaxKeepAlive},
		{"KeepAlive", "probes (Count)", int64(k.Count), sock.MaxKeepCount},
	} {
		if v.n > v.most {
			return &OptionError{Option: v.name, Reason: fmt.Sprintf("%d %s: the maximum is %d", v.n, v.what, v.most)}
		}
	}
	return nil
}

func badInterfaceName(option, name string) error {
	return &OptionError{Option: option, Reason: fmt.Sprintf("%q is not an interface name: it must have 1 to %d bytes and no zero byte", name, unix.IFNAMSIZ-1)}
}

// The defaults of TCP keepalive are those of package net.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// keepAlive is KeepAlive with its defaults.
func (o *Options) keepAlive() net.KeepAliveConfig {
	k := net.KeepAliveConfig{Enable: true}
	if o.KeepAlive != nil {
		k = *o.KeepAlive
	}
	k.Idle, k.Interval = cmp.Or(k.Idle, keepAliveIdle), cmp.Or(k.Interval, keepAliveInterval)
	k.Count = cmp.Or(k.Count, keepAliveCount)
	return k
}

// fallbackDelay is FallbackDelay with its default, which is that of RFC 8305, section 8.
func (o *Options) fallbackDelay() time.Duration {
	return durationOr(o.FallbackDelay, 250*time.Millisecond)
}

// limits are the timeouts of a client, defaults included. Negative: no limit.
type limits struct{ connect, recv, send time.Duration }

func (o *Options) limits() limits {
	all := durationOr(o.Timeout, DefaultTimeout)
	return limits{
		connect: durationOr(o.ConnectTimeout, all),
		recv:    durationOr(o.RecvTimeout, all),
		send:    durationOr(o.SendTimeout, all),
	}
}

// durationOr is cmp.Or for two values, without a slice: each pool checkout calls limits.
func durationOr(d, other time.Duration) time.Duration {
	if d != 0 {
		return d
	}
	return other
}

var defaults Options // never changed

func orDefaults(o *Options) *Options {
	if o == nil {
		return &defaults
	}
	return o
}

// clone copies Options for use after the call has returned to the caller, who may change
// them. The defaults never change and are not copied.
func (o *Options) clone() *Options {
	if o == &defaults {
		return o
	}
	c := *o
	c.Multicast = o.Multicast.clone()
	if o.KeepAlive != nil {
		k := *o.KeepAlive
		c.KeepAlive = &k
	}
	if o.TLS != nil {
		t := *o.TLS
		t.NextProtos = slices.Clone(t.NextProtos)
		c.TLS = &t
	}
	return &c
}

func (m *Multicast) clone() *Multicast {
	if m == nil {
		return nil
	}
	c := *m
	c.Groups = slices.Clone(m.Groups)
	return &c
}
