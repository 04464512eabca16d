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
	// Groups are those to receive from, as a member: all of them IPv4, or IPv6.
	Groups []netip.Addr

	// Interface is the name of the interface to join the groups on and to send by.
	// Default: the system's choice.
	Interface string

	// TTL is how many routers a datagram may pass to reach its group, +1. Default: 1.
	TTL uint8

	// Loopback has members on this machine receive what is sent, oneself included.
	// Default: On.
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
		{"NoDelay", o.NoDelay != Default, tcp, "tcp", true},
		{"KeepAlive", o.KeepAlive != nil, tcp, "tcp", true},
		{"UserTimeout", o.UserTimeout != 0, tcp, "tcp", linux},
		{"FastOpen", o.FastOpen, tcp, "tcp", linux},
		{"QuickAck", o.QuickAck != Default, tcp, "tcp", linux},
		{"MPTCP", o.MPTCP, tcp, "tcp", linux},
		{"Linger", o.Linger != 0, tcp, "tcp", true},
		{"ReuseAddr", o.ReuseAddr != Default, ip, "tcp and udp", true},
		{"TOS", o.TOS != 0, ip, "tcp and udp", true},
		{"TTL", o.TTL != 0, ip, "tcp and udp", true},
		{"Mark", o.Mark != 0, ip, "tcp and udp", linux},
		{"Device", o.Device != "", ip, "tcp and udp", linux},
		{"BusyPoll", o.BusyPoll != 0, ip, "tcp and udp", linux},
		{"Broadcast", o.Broadcast, udp && n.v4 != 0, "udp over IPv4", true},
		{"Multicast", o.Multicast != nil, udp, "udp", true},
		{"ICMPErrors", o.ICMPErrors, udp, "udp", linux},
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
		if s < Default || s > Off {
			return &OptionError{Option: name, Reason: fmt.Sprintf("%d is neither Default nor On nor Off", s)}
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
	if m := o.Multicast; m != nil {
		if m.Loopback < Default || m.Loopback > Off {
			return &OptionError{Option: "Multicast", Reason: fmt.Sprintf("Loopback: %d is neither Default nor On nor Off", m.Loopback)}
		}
		for _, g := range m.Groups {
			if !g.IsMulticast() {
				return &OptionError{Option: "Multicast", Reason: g.String() + " is not the address of a group"}
			}
		}
	}
	return nil
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
		if err := s.SetLinger(seconds(max(o.Linger, 0))); err != nil {
			return optionFailed("Linger", err)
		}
	}
	if o.Device != "" {
		if err := s.SetDevice(o.Device); err != nil {
			return optionFailed("Device", err)
		}
	}
	if o.ICMPErrors {
		if err := s.SetICMPErrors(); err != nil {
			return optionFailed("ICMPErrors", err)
		}
	}
	if o.Multicast != nil {
		if err := o.Multicast.prepare(s, typ); err != nil {
			return optionFailed("Multicast", err)
		}
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
		set(o.NoDelay != Off, "NoDelay", tcp, unix.TCP_NODELAY, 1)
		k := net.KeepAliveConfig{Enable: true}
		if o.KeepAlive != nil {
			k = *o.KeepAlive
		}
		idle, interval := cmp.Or(k.Idle, keepAliveIdle), cmp.Or(k.Interval, keepAliveInterval)
		count := cmp.Or(k.Count, keepAliveCount)
		set(k.Enable, "KeepAlive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set(k.Enable && idle > 0, "KeepAlive", tcp, sock.KeepIdle, seconds(idle))
		set(k.Enable && interval > 0, "KeepAlive", tcp, unix.TCP_KEEPINTVL, seconds(interval))
		set(k.Enable && count > 0, "KeepAlive", tcp, unix.TCP_KEEPCNT, count)
		set(o.UserTimeout != 0, "UserTimeout", tcp, sock.UserTimeout, units(o.UserTimeout, time.Millisecond))
		set(o.FastOpen, "FastOpen", tcp, sock.FastOpen, 1)
		set(o.QuickAck != Default, "QuickAck", tcp, sock.QuickAck, truth(o.QuickAck == On))
	}
	const socket = unix.SOL_SOCKET
	set(o.RecvBuffer != 0, "RecvBuffer", socket, unix.SO_RCVBUF, o.RecvBuffer)
	set(o.SendBuffer != 0, "SendBuffer", socket, unix.SO_SNDBUF, o.SendBuffer)
	set(o.ReuseAddr == On, "ReuseAddr", socket, unix.SO_REUSEADDR, 1)
	set(o.Mark != 0, "Mark", socket, sock.Mark, int(o.Mark))
	set(o.BusyPoll != 0, "BusyPoll", socket, sock.BusyPoll, units(o.BusyPoll, time.Microsecond))
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
		by, err := net.InterfaceByName(m.Interface)
		if err != nil {
			return fmt.Errorf("interface %s: %w", m.Interface, err)
		}
		index = by.Index
		if err := s.SetMulticast(index); err != nil {
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
	if m.Loopback != Default {
		if err := s.SetInt(level, loop, truth(m.Loopback == On)); err != nil {
			return err
		}
	}
	for _, g := range m.Groups {
		if g.Is4() != (typ == UDP) {
			return fmt.Errorf("%v is of another family than the socket", g)
		}
		if err := s.Join(g, index); err != nil {
			return fmt.Errorf("joining %v: %w", g, err)
		}
	}
	return nil
}

// units counts a time in the kernel's units, rounded up: a limit is not to be over
// before it was asked to be.
func units(d, unit time.Duration) int {
	n := d / unit
	if d%unit > 0 {
		n++
	}
	return int(min(n, math.MaxInt32))
}

func seconds(d time.Duration) int { return units(d, time.Second) }

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// sameSocket reports whether the options make the same of a socket, for a Pool.
func (o *Options) sameSocket(p *Options) bool {
	return o.NoDelay == p.NoDelay && o.QuickAck == p.QuickAck && o.ReuseAddr == p.ReuseAddr &&
		o.FastOpen == p.FastOpen && o.MPTCP == p.MPTCP && o.Broadcast == p.Broadcast && o.ICMPErrors == p.ICMPErrors &&
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
