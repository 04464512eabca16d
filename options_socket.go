package client

import (
	"fmt"
	"time"

	"github.com/blocksock/client/internal/sock"
	"golang.org/x/sys/unix"
)

// protocol is the protocol for socket(2).
func (o *Options) protocol() int {
	if o.MPTCP {
		return sock.MPTCP
	}
	return 0
}

// An intOption is one call of setsockopt(2) with a number, and the option that needs it.
type intOption struct {
	option        string
	level, number int
	value         int
}

// applyTo sets the options of a new socket.
func (o *Options) applyTo(s *sock.Socket, typ Type) error {
	for _, set := range o.intOptions(typ) {
		if err := s.SetInt(set.level, set.number, set.value); err != nil {
			return optionError(set.option, err)
		}
	}
	if o.Linger != 0 && typ.isTCP() {
		if err := s.SetLinger(int(units(max(o.Linger, 0), time.Second))); err != nil {
			return optionError("Linger", err)
		}
	}
	if o.Device != "" {
		if err := s.BindToDevice(o.Device); err != nil {
			return optionError("Device", err)
		}
	}
	if o.ICMPErrors {
		if err := s.SetICMPErrors(); err != nil {
			return optionError("ICMPErrors", err)
		}
	}
	if o.Unconnected {
		s.SetUnconnected()
	}
	if typ != UDP && typ != UDP6 {
		return nil
	}
	if o.GRO {
		s.SetGRO()
	}
	err := s.SetJoinedGroupsOnly()
	if err == nil && o.Multicast != nil {
		err = o.Multicast.applyTo(s, typ)
	}
	if err != nil {
		return optionError("Multicast", err)
	}
	return nil
}

func optionError(name string, err error) error {
	return &OptionError{Option: name, Reason: err.Error(), Err: err}
}

// intOptions are the options that are numbers.
func (o *Options) intOptions(typ Type) []intOption {
	all := make([]intOption, 0, 8)
	set := func(given bool, option string, level, number, value int) {
		if given {
			all = append(all, intOption{option, level, number, value})
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
		set(o.QuickAck != SwitchDefault, "QuickAck", tcp, sock.QuickAck, boolToInt(o.QuickAck == SwitchOn))
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

func (m *Multicast) applyTo(s *sock.Socket, typ Type) error {
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
		if err := s.SetInt(level, loop, boolToInt(m.Loopback == SwitchOn)); err != nil {
			return err
		}
	}
	for _, g := range m.Groups {
		g = g.Unmap()
		if g.Is4() != (typ == UDP) {
			return fmt.Errorf("%v is not of the socket's address family", g)
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

// units converts a time to the kernel's units, rounded up: a limit must not be shorter
// than the caller asked for.
func units(d, unit time.Duration) int64 {
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return n
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
