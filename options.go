package client

import (
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/blocksock/client/internal/sock"
)

// DefaultTimeout is the time limit of a client whose Options.Timeout is zero.
const DefaultTimeout = 5 * time.Second

// Options are the settings of a client. The zero value and a nil *Options are
// the defaults. A client copies what it needs: Options can be shared by any
// number of clients, and changing them changes no client that exists.
type Options struct {
	// Timeout is the time limit of each call that may wait, from its start to
	// its end: Dial and Connect with all that belongs to them, Send, Recv,
	// SendTo, RecvFrom. Zero is DefaultTimeout (5 s), negative is no limit.
	//
	// Read and Write do not obey it: they have the net.Conn contract, which
	// knows deadlines only.
	Timeout time.Duration

	// ConnectTimeout, RecvTimeout and SendTimeout, where not zero, take the
	// place of Timeout for Dial and Connect, for Recv and RecvFrom, and for
	// Send and SendTo. Negative is no limit.
	ConnectTimeout time.Duration
	RecvTimeout    time.Duration
	SendTimeout    time.Duration

	// LocalAddr is the address to bind before connecting. For tcp and udp it is
	// an IP address and a port, and an empty host is any of this machine's addresses.
	// Port 0 is one of the system's choice; for tcp it is chosen when the client
	// connects, so that connections to different peers can have the same (on Linux,
	// IP_BIND_ADDRESS_NO_PORT). With an address of one
	// family, only peers of that family are tried. For unix and unixgram it is a
	// path, which is removed when the client is closed, or a Linux abstract name
	// ("@name"). Empty: the system chooses, and a unixgram client gets a name
	// that it can be answered at.
	LocalAddr string

	// NoDelay sends small segments at once instead of waiting for the peer's
	// acknowledgement of the last (TCP_NODELAY, Nagle's algorithm off; tcp(7)).
	// Default: SwitchOn. TCP only; to set it for another network is an error.
	NoDelay Switch

	// KeepAlive has the kernel ask an idle peer now and then whether it is still
	// there, and fail the connection if there is no answer (tcp(7), TCP_KEEPIDLE,
	// TCP_KEEPINTVL, TCP_KEEPCNT; whole seconds, rounded up; on Linux 32767 s and 127
	// times at most). Nil is on, with package
	// net's defaults: first after 15 s, then each 15 s, 9 times. A field that is zero
	// is that default, one that is negative the system's, and Enable false is off.
	// TCP only.
	KeepAlive *net.KeepAliveConfig

	// UserTimeout is how long what was sent may go unacknowledged before the kernel
	// fails the connection (TCP_USER_TIMEOUT, RFC 5482; milliseconds, rounded up).
	// Default: the system's, some 15 minutes. TCP on Linux only.
	UserTimeout time.Duration

	// FastOpen has the first Send go out with the connect, if the server is known to
	// take it (TCP_FASTOPEN_CONNECT, RFC 7413): Dial then returns before there is an
	// answer, and what is wrong shows at the first Send or Recv. The server may get
	// that first Send twice. TCP on Linux only.
	FastOpen bool

	// QuickAck acknowledges at once what is received, or, if SwitchOff, with what is sent
	// (TCP_QUICKACK). The kernel changes it by itself as the connection goes on.
	// Default: the kernel's choice. TCP on Linux only.
	QuickAck Switch

	// MPTCP makes a socket that can use several paths at once (RFC 8684), and that
	// speaks plain TCP with a peer that cannot. A system that has none, or where it
	// is switched off, is an *OptionError. TCP on Linux only.
	MPTCP bool

	// Linger has Close wait so long for what was sent to be acknowledged (SO_LINGER;
	// whole seconds, rounded up); negative throws it away and resets the connection.
	// Default: Close does not wait, and the kernel goes on. TCP only.
	Linger time.Duration

	// ReuseAddr SwitchOn binds to an address that is in use by what allows the same, live
	// connections too (SO_REUSEADDR, socket(7)). Default: a TCP port, in LocalAddr or
	// Bind, is to be had unless something alive has it; connections that are over
	// (TIME_WAIT) are no obstacle. SwitchOff: they are. TCP and UDP.
	ReuseAddr Switch

	// RecvBuffer and SendBuffer are how many bytes the kernel keeps for the client
	// at most (SO_RCVBUF, SO_SNDBUF; Linux takes twice as much, and no more than
	// net.core.rmem_max and wmem_max). Default: the system's, which for TCP adapts
	// itself, and does so no more once they are set.
	RecvBuffer int
	SendBuffer int

	// TOS is the type of service of what is sent, or traffic class: IP_TOS of IPv4,
	// IPV6_TCLASS of IPv6 (RFC 2474: the upper six bits). TTL is how many routers it
	// may pass, +1: IP_TTL, IPV6_UNICAST_HOPS. Default: the system's. TCP and UDP.
	TOS uint8
	TTL uint8

	// Mark is for the rules of routing and filtering (SO_MARK), Device the name of the
	// one interface to use (SO_BINDTODEVICE). They may need CAP_NET_ADMIN or
	// CAP_NET_RAW. Default: none. TCP and UDP on Linux only.
	Mark   uint32
	Device string

	// BusyPoll is how long a receive looks at the network device itself before it
	// sleeps (SO_BUSY_POLL; microseconds, rounded up). It may need CAP_NET_ADMIN.
	// Default: not at all. TCP and UDP on Linux only.
	BusyPoll time.Duration

	// Broadcast allows to send to a broadcast address (SO_BROADCAST). UDP over IPv4
	// only.
	Broadcast bool

	// Multicast is about groups. UDP only.
	Multicast *Multicast

	// ICMPErrors has receives fail with an *ICMPError where somebody on the way has
	// said what became of a datagram, and of which (IP_RECVERR, IPV6_RECVERR; ip(7)):
	// without it a client that has no peer never learns, and one that has, by the
	// next call, a send too. UDP on Linux only.
	ICMPErrors bool

	// GRO has the kernel coalesce datagrams of one sender that have the same size and arrive
	// close behind each other, which makes receiving them cheaper (UDP_GRO, udp(7)). The
	// client separates them: each call returns the same as without GRO. Only a callback of
	// SyscallConn receives them coalesced. A client with GRO has a buffer of 64 KiB. GRO has no
	// effect before Linux 5.0 and on other systems. Default: off. UDP only.
	GRO bool

	// Resolver looks names up. Default: net.DefaultResolver.
	Resolver *net.Resolver

	// FallbackDelay is how long Dial waits for one address of a name before it tries
	// the next too (RFC 8305, Connection Attempt Delay); less where the limit would not
	// leave each its chance. Default: 250 ms. Negative: one address at a time, each with
	// an equal share of the time that is left.
	FallbackDelay time.Duration

	// Proxy is the proxy to dial through, as a URL with a port: "socks5://" and
	// "socks5h://" (RFC 1928, with user and password as in RFC 1929) or "http://"
	// (CONNECT, RFC 9110, with Basic authentication). The proxy looks names up,
	// and picks their addresses: "tcp4" and "tcp6" mean something for an IP
	// address alone. A name has to be in ASCII.
	// LocalAddr, Resolver, Control and the socket options are for the connection
	// to the proxy, whose address RemoteAddr then gives. Dial of tcp only.
	// Default: none, whatever the environment says.
	Proxy string

	// TLS, if not nil, has Dial and Connect make a TLS connection (RFC 8446, RFC
	// 5246): the handshake, and the peer's certificate, are a part of connecting,
	// and nothing is sent before. Streams only. Default: none.
	TLS *TLSOptions

	// Framing tells RecvPacket where packets end, and SendPacket how to mark it. A
	// client with a framing receives ahead; Recv and Read give what it has first.
	// Streams only. Default: none.
	Framing Framing

	// PoolKey is the caller's part of a Pool's key: two who dial the same with
	// different PoolKeys get no connection from each other. Without a pool it means
	// nothing.
	PoolKey string

	// Control is called with the descriptor after the socket has been made and
	// before it is bound or connected, to set options that have no field here.
	// network is that of the socket, as net.Dialer has it: "tcp4", "tcp6", "udp4",
	// "udp6", "unix" or "unixgram". address is the one about to be connected to, and
	// empty for a client from NewTCP and its kin. An error from it ends that attempt.
	Control func(network, address string, c syscall.RawConn) error
}

// A Switch is an option that is left to its default, on, or off.
type Switch int8

// The states of a Switch.
const (
	SwitchDefault Switch = iota
	SwitchOn
	SwitchOff
)

// fallbackDelay is FallbackDelay with its default, which RFC 8305, section 8, recommends.
func (o *Options) fallbackDelay() time.Duration {
	return orElse(o.FallbackDelay, 250*time.Millisecond)
}

// limits are the timeouts of a client with the defaults filled in; negative
// is none.
type limits struct{ connect, recv, send time.Duration }

func (o *Options) limits() limits {
	all := orElse(o.Timeout, DefaultTimeout)
	return limits{
		connect: orElse(o.ConnectTimeout, all),
		recv:    orElse(o.RecvTimeout, all),
		send:    orElse(o.SendTimeout, all),
	}
}

// orElse is cmp.Or of two, without the slice: a pool asks for limits at each Dial.
func orElse(d, other time.Duration) time.Duration {
	if d != 0 {
		return d
	}
	return other
}

// A plan is what Options ask of one network: read, checked, and with the files
// loaded that they name, before there is a socket.
type plan struct {
	opts  *Options
	net   network
	local *sock.Addr // nil: the system's choice
	via   *via       // nil: no proxy
	tls   *security  // nil: none

	packets *packets // nil: no framing
}

// plan refuses what n's sockets do not have.
func (o *Options) plan(n network) (*plan, error) {
	if o.TLS != nil && !n.isStream() {
		return nil, &OptionError{Option: "TLS", Reason: "only streams have it"}
	}
	err := o.sensible()
	if err == nil {
		err = o.available(n)
	}
	if err != nil {
		return nil, err
	}
	p := &plan{opts: o, net: n}
	if p.via, err = o.proxy(n); err != nil {
		return nil, err
	}
	if p.via != nil {
		n = networks["tcp"] // LocalAddr is for the way to the proxy
	}
	if o.LocalAddr != "" {
		local, err := n.parseLocal(o.LocalAddr)
		if err != nil {
			return nil, &OptionError{Option: "LocalAddr", Reason: err.Error()}
		}
		p.local = &local
	}
	if p.packets, err = o.packets(n.name); err != nil {
		return nil, err
	}
	if o.TLS != nil {
		p.tls, err = o.TLS.security()
	}
	return p, err
}

var defaults Options // nobody changes them

// clone gives a copy for who goes on with it when the caller has got theirs back.
// The defaults, which are nobody's, it gives as they are.
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

func orDefaults(o *Options) *Options {
	if o == nil {
		return &defaults
	}
	return o
}
