package client

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// The defaults of TCP keepalive, which are those of package net.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// Multicast is what a UDP client has to do with groups of receivers (RFC 1112, RFC
// 4291 2.7). The zero value sends by the interface of the system's choice to groups
// on its own network.
type Multicast struct {
	// Groups are those to receive from, as a member: all of them IPv4, or IPv6. The
	// zone of an IPv6 group is the interface to join it on. A client does not
	// receive from other groups (IP_MULTICAST_ALL and IPV6_MULTICAST_ALL are off; the
	// latter needs Linux 4.20).
	Groups []netip.Addr

	// Interface is the name of the interface to join those groups on that have no
	// zone, and to send by. Default: the system's choice.
	Interface string

	// TTL is how many routers a datagram may pass to reach its group, +1. Default: 1.
	TTL uint8

	// Loopback has members on this machine receive what is sent, oneself included.
	// Default: SwitchOn.
	Loopback Switch
}

// available refuses an option that was given and that n's sockets, or this system,
// do not have.
func (o *Options) available(n network) error {
	const linux = runtime.GOOS == "linux"
	tcp, ip := n.isTCP(), n.local == 0
	udp := ip && !tcp
	for _, option := range []struct {
		name  string
		given bool
		has   bool
		who   string
		here  bool
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
		{"Broadcast", o.Broadcast, udp && n.v4 != 0, "udp over IPv4", true},
		{"Multicast", o.Multicast != nil, udp, "udp", true},
		{"ICMPErrors", o.ICMPErrors, udp, "udp", linux},
		{"GRO", o.GRO, udp, "udp", true},
	} {
		switch {
		case option.given && !option.has:
			return &OptionError{Option: option.name, Reason: "only " + option.who + " has it"}
		case option.given && !option.here:
			return &OptionError{Option: option.name, Reason: "this system has none"}
		}
	}
	return nil
}

// sensible refuses values that mean nothing.
func (o *Options) sensible() error {
	for name, s := range map[string]Switch{"NoDelay": o.NoDelay, "QuickAck": o.QuickAck, "ReuseAddr": o.ReuseAddr} {
		if s < SwitchDefault || s > SwitchOff {
			return &OptionError{Option: name, Reason: fmt.Sprintf("%d is neither SwitchDefault nor SwitchOn nor SwitchOff", s)}
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
	if err := o.fitsKernel(); err != nil {
		return err
	}
	if o.Device != "" && !sock.IsInterfaceName(o.Device) {
		return notAnInterface("Device", o.Device)
	}
	if m := o.Multicast; m != nil {
		if m.Interface != "" && !sock.IsInterfaceName(m.Interface) {
			return notAnInterface("Multicast", m.Interface)
		}
		if m.Loopback < SwitchDefault || m.Loopback > SwitchOff {
			return &OptionError{Option: "Multicast", Reason: fmt.Sprintf("Loopback: %d is neither SwitchDefault nor SwitchOn nor SwitchOff", m.Loopback)}
		}
		for _, g := range m.Groups {
			if !g.IsMulticast() || g.Is4In6() && g.Zone() != "" {
				return &OptionError{Option: "Multicast", Reason: g.String() + " is not the address of a group"}
			}
		}
	}
	return nil
}

// fitsKernel refuses numbers that the kernel has no room for: it takes an int, and what
// would be cut off is not what was asked for.
func (o *Options) fitsKernel() error {
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
		{"KeepAlive", "of Count", int64(k.Count), sock.MaxKeepCount},
	} {
		if v.n > v.most {
			return &OptionError{Option: v.name, Reason: fmt.Sprintf("%d %s is more than %d", v.n, v.what, v.most)}
		}
	}
	return nil
}

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

func notAnInterface(option, name string) error {
	return &OptionError{Option: option, Reason: fmt.Sprintf("%q cannot be the name of an interface, which has 1 to %d bytes and no zero byte", name, unix.IFNAMSIZ-1)}
}

// protocol is what socket(2) is asked for.
func (o *Options) protocol() int {
	if o.MPTCP {
		return sock.MPTCP
	}
	return 0
}

// A setting is one call of setsockopt(2), and the option that it is for.
type setting struct {
	option        string
	level, number int
	value         int
}

// prepare gives a new socket its options.
func (o *Options) prepare(s *sock.Socket, typ Type) error {
	for _, set := range o.settings(typ) {
		if err := s.SetInt(set.level, set.number, set.value); err != nil {
			return optionFailed(set.option, err)
		}
	}
	if o.Linger != 0 && typ.isTCP() {
		if err := s.SetLinger(int(units(max(o.Linger, 0), time.Second))); err != nil {
			return optionFailed("Linger", err)
		}
	}
	if o.Device != "" {
		if err := s.BindToDevice(o.Device); err != nil {
			return optionFailed("Device", err)
		}
	}
	if o.ICMPErrors {
		if err := s.SetICMPErrors(); err != nil {
			return optionFailed("ICMPErrors", err)
		}
	}
	if typ != UDP && typ != UDP6 {
		return nil
	}
	if o.GRO {
		s.SetGRO()
	}
	err := s.SetJoinedGroupsOnly()
	if err == nil && o.Multicast != nil {
		err = o.Multicast.prepare(s, typ)
	}
	if err != nil {
		return optionFailed("Multicast", err)
	}
	return nil
}

func optionFailed(name string, err error) error {
	return &OptionError{Option: name, Reason: err.Error(), Err: err}
}

// settings are the options that are numbers.
func (o *Options) settings(typ Type) (all []setting) {
	set := func(given bool, option string, level, number, value int) {
		if given {
			all = append(all, setting{option, level, number, value})
		}
	}
	if typ.isTCP() {
		const tcp = unix.IPPROTO_TCP
		set(o.NoDelay != SwitchOff, "NoDelay", tcp, unix.TCP_NODELAY, 1)
		k := o.keepAlive()
		set(k.Enable, "KeepAlive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set(k.Enable && k.Idle > 0, "KeepAlive", tcp, sock.KeepIdle, int(units(k.Idle, time.Second)))
		set(k.Enable && k.Interval > 0, "KeepAlive", tcp, unix.TCP_KEEPINTVL, int(units(k.Interval, time.Second)))
		set(k.Enable && k.Count > 0, "KeepAlive", tcp, unix.TCP_KEEPCNT, k.Count)
		set(o.UserTimeout != 0, "UserTimeout", tcp, sock.UserTimeout, int(units(o.UserTimeout, time.Millisecond)))
		set(o.FastOpen, "FastOpen", tcp, sock.FastOpen, 1)
		set(o.QuickAck != SwitchDefault, "QuickAck", tcp, sock.QuickAck, truth(o.QuickAck == SwitchOn))
	}
	const socket = unix.SOL_SOCKET
	set(o.RecvBuffer != 0, "RecvBuffer", socket, unix.SO_RCVBUF, o.RecvBuffer)
	set(o.SendBuffer != 0, "SendBuffer", socket, unix.SO_SNDBUF, o.SendBuffer)
	set(o.ReuseAddr == SwitchOn, "ReuseAddr", socket, unix.SO_REUSEADDR, 1)
	set(o.Mark != 0, "Mark", socket, sock.Mark, int(o.Mark))
	set(o.BusyPoll != 0, "BusyPoll", socket, sock.BusyPoll, int(units(o.BusyPoll, time.Microsecond)))
	set(o.Broadcast, "Broadcast", socket, unix.SO_BROADCAST, 1)
	if typ == TCP6 || typ == UDP6 {
		set(o.TOS != 0, "TOS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(o.TOS))
		set(o.TTL != 0, "TTL", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, int(o.TTL))
	} else if !typ.isUnix() {
		set(o.TOS != 0, "TOS", unix.IPPROTO_IP, unix.IP_TOS, int(o.TOS))
		set(o.TTL != 0, "TTL", unix.IPPROTO_IP, unix.IP_TTL, int(o.TTL))
	}
	return all
}

func (m *Multicast) prepare(s *sock.Socket, typ Type) error {
	index := 0
	if m.Interface != "" {
		var err error
		if index, err = s.InterfaceIndex(m.Interface); err != nil {
			return fmt.Errorf("interface %s: %w", m.Interface, err)
		}
		if err := s.SetMulticastInterface(index); err != nil {
			return err
		}
	}
	level, ttl, loop := unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, unix.IP_MULTICAST_LOOP
	if typ == UDP6 {
		level, ttl, loop = unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, unix.IPV6_MULTICAST_LOOP
	}
	if m.TTL != 0 {
		if err := s.SetInt(level, ttl, int(m.TTL)); err != nil {
			return err
		}
	}
	if m.Loopback != SwitchDefault {
		if err := s.SetInt(level, loop, truth(m.Loopback == SwitchOn)); err != nil {
			return err
		}
	}
	for _, g := range m.Groups {
		g = g.Unmap()
		if g.Is4() != (typ == UDP) {
			return fmt.Errorf("%v is of another family than the socket", g)
		}
		on := index
		if zone := g.Zone(); zone != "" {
			var err error
			if on, err = s.ZoneIndex(zone); err != nil {
				return fmt.Errorf("joining %v: %w", g, err)
			}
		}
		if err := s.JoinGroup(g, on); err != nil {
			return fmt.Errorf("joining %v: %w", g, err)
		}
	}
	return nil
}

// units counts a time in the kernel's units, rounded up: a limit is not to be over
// before it was asked to be.
func units(d, unit time.Duration) int64 {
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return n
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// sameSocket reports whether the options make the same of a socket, for a Pool.
func (o *Options) sameSocket(p *Options) bool {
	return o.NoDelay == p.NoDelay && o.QuickAck == p.QuickAck && o.ReuseAddr == p.ReuseAddr &&
		o.FastOpen == p.FastOpen && o.MPTCP == p.MPTCP && o.Broadcast == p.Broadcast && o.ICMPErrors == p.ICMPErrors && o.GRO == p.GRO &&
		o.TOS == p.TOS && o.TTL == p.TTL && o.Mark == p.Mark && o.Device == p.Device &&
		o.RecvBuffer == p.RecvBuffer && o.SendBuffer == p.SendBuffer &&
		o.UserTimeout == p.UserTimeout && o.Linger == p.Linger && o.BusyPoll == p.BusyPoll &&
		(o.KeepAlive == p.KeepAlive || o.KeepAlive != nil && p.KeepAlive != nil && *o.KeepAlive == *p.KeepAlive) &&
		o.Multicast.same(p.Multicast)
}

func (m *Multicast) same(as *Multicast) bool {
	if m == nil || as == nil {
		return m == as
	}
	return m.Interface == as.Interface && m.TTL == as.TTL && m.Loopback == as.Loopback && slices.Equal(m.Groups, as.Groups)
}

func (m *Multicast) clone() *Multicast {
	if m == nil {
		return nil
	}
	c := *m
	c.Groups = slices.Clone(m.Groups)
	return &c
}
