package client

import (
	"net"
	"net/netip"
	"syscall"
	"time"
)

// DefaultTimeout is the time limit of a client whose Options.Timeout is zero.
const DefaultTimeout = 5 * time.Second

// Options are the settings of a client. A nil *Options and the zero value mean the
// defaults. A client copies what it needs: several clients may share Options, and a
// later change of Options does not affect existing clients.
type Options struct {
	// Timeout is the time limit of each call that may wait, from start to end: Dial and
	// Connect with everything they do, Send, Recv, SendTo and RecvFrom. Default: 5 s
	// (DefaultTimeout). Negative: no limit.
	//
	// Timeout does not apply to Read and Write: as in net.Conn, only deadlines bound
	// them.
	Timeout time.Duration

	// ConnectTimeout, if not zero, replaces Timeout for Dial and Connect. RecvTimeout
	// replaces it for Recv and RecvFrom, SendTimeout for Send and SendTo. Default:
	// Timeout. Negative: no limit.
	ConnectTimeout time.Duration
	RecvTimeout    time.Duration
	SendTimeout    time.Duration

	// LocalAddr is the address to bind before connecting.
	//
	// For tcp and udp it is an IP address and a port. An empty host means all addresses
	// of this machine. With port 0 the system chooses the port; for tcp it does so when
	// the client connects, so that connections to different peers can share a port (on
	// Linux, IP_BIND_ADDRESS_NO_PORT). With an IP address, only peers of its family are
	// tried.
	//
	// For unix and unixgram it is a path, whose file is removed when the client is
	// closed, or on Linux "@" and an abstract name.
	//
	// Default: the system chooses. A unixgram client gets a name that peers can answer to.
	LocalAddr string

	// NoDelay sends small segments at once instead of waiting for the peer to acknowledge
	// earlier ones (TCP_NODELAY: Nagle's algorithm is off; tcp(7)). TCP only: it is an
	// error for other networks. Default: SwitchOn.
	NoDelay Switch

	// KeepAlive makes the kernel send probes on an idle connection and fail the
	// connection if the peer does not answer (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL,
	// TCP_KEEPCNT). Times are in whole seconds, rounded up. The limits on Linux are
	// 32767 s and 127 probes. A field that is zero means its default, a negative one the
	// system's; Enable false turns probes off. TCP only. Default: on, with the values of
	// package net: the first probe after 15 s, then every 15 s, 9 times.
	KeepAlive *net.KeepAliveConfig

	// UserTimeout is how long sent data may stay unacknowledged before the kernel fails
	// the connection (TCP_USER_TIMEOUT, RFC 5482). It is in milliseconds, rounded up.
	// TCP on Linux only. Default: the system's, about 15 minutes.
	UserTimeout time.Duration

	// FastOpen sends the data of the first Send with the SYN if the server is known to
	// support it (TCP_FASTOPEN_CONNECT, RFC 7413). Dial then returns before the server
	// has answered, and the first Send or Recv returns the error of a failed connect. The
	// server may receive the data of the first Send twice. TCP on Linux only. Default: off.
	FastOpen bool

	// QuickAck acknowledges received segments at once. SwitchOff delays acknowledgements
	// to send them with data (TCP_QUICKACK). The kernel changes the mode itself as the
	// connection goes on. TCP on Linux only. Default: the kernel's choice.
	QuickAck Switch

	// MPTCP uses Multipath TCP (RFC 8684), which falls back to TCP if the peer does not
	// support it. A system without MPTCP, or with MPTCP disabled, is an *OptionError. TCP
	// on Linux only. Default: off.
	MPTCP bool

	// Linger makes Close wait up to this time until sent data is acknowledged (SO_LINGER).
	// It is in whole seconds, rounded up. Negative: Close discards unsent data and resets
	// the connection. TCP only. Default: Close does not wait, and the kernel goes on
	// sending.
	Linger time.Duration

	// ReuseAddr decides whether LocalAddr or Bind may use an address that is in use
	// (SO_REUSEADDR, socket(7)). TCP and UDP only.
	//
	//   - SwitchOn: also by live connections, if their sockets allow it too.
	//   - SwitchOff: no.
	//   - Default: a TCP port may be used if only closed connections (TIME_WAIT) use it.
	ReuseAddr Switch

	// RecvBuffer and SendBuffer are the sizes of the kernel's buffers in bytes (SO_RCVBUF,
	// SO_SNDBUF). Linux doubles them and bounds them by net.core.rmem_max and wmem_max.
	// TCP stops adapting a buffer once its size is set. Default: the system's.
	RecvBuffer int
	SendBuffer int

	// TOS is the type of service or traffic class of sent packets (IP_TOS, IPV6_TCLASS;
	// RFC 2474 uses the upper six bits). TCP and UDP only. Default: the system's.
	TOS uint8

	// TTL is the time to live or hop limit of sent packets: the number of routers that a
	// packet may pass, plus 1 (IP_TTL, IPV6_UNICAST_HOPS). TCP and UDP only. Default: the
	// system's.
	TTL uint8

	// Mark sets the mark of sent packets for routing and filter rules (SO_MARK). It may
	// need CAP_NET_ADMIN or CAP_NET_RAW. TCP and UDP on Linux only. Default: none.
	Mark uint32

	// Device is the name of the network interface to use (SO_BINDTODEVICE). It may need
	// CAP_NET_RAW. TCP and UDP on Linux only. Default: any.
	Device string

	// BusyPoll is how long a receive polls the network device before it sleeps
	// (SO_BUSY_POLL). It is in microseconds, rounded up, and may need CAP_NET_ADMIN. TCP
	// and UDP on Linux only. Default: none.
	BusyPoll time.Duration

	// Unconnected makes Dial and Connect set the address that Send sends to, without
	// connect(2). The client then receives datagrams from any address; RecvFrom returns
	// whose they are, and who must be checked, because anybody can send one. SendTo and the
	// like can send to other addresses. Only the first address of a name is used. A closed
	// port is not reported; see ICMPErrors. udp and unixgram only. Default: the client is
	// connected to one peer, and receives only from it.
	Unconnected bool

	// Broadcast permits sending to broadcast addresses (SO_BROADCAST). UDP over IPv4
	// only. Default: off.
	Broadcast bool

	// Multicast sets the multicast options. UDP only. Default: none.
	Multicast *Multicast

	// ICMPErrors makes a receive return an *ICMPError when an ICMP error about a sent
	// datagram has arrived (IP_RECVERR, IPV6_RECVERR; ip(7)). The error tells which
	// datagram it is about. Without the option, an unconnected client is never told, and
	// the next call of a connected client fails, even a send. UDP on Linux only. Default:
	// off.
	ICMPErrors bool

	// GRO has the kernel coalesce datagrams of one sender that have the same size and arrive
	// close behind each other, which makes receiving them cheaper (UDP_GRO, udp(7)). The
	// client separates them: each call returns the same as without GRO. Only a callback of
	// SyscallConn receives them coalesced. A client with GRO has a buffer of 64 KiB. GRO has no
	// effect before Linux 5.0 and on other systems. Default: off. UDP only.
	GRO bool

	// Resolver looks names up. Default: net.DefaultResolver.
	Resolver Resolver

	// FallbackDelay is how long Dial waits for one address of a name before it also tries
	// the next (RFC 8305, Connection Attempt Delay). The delay is shorter if the time
	// limit would otherwise not leave enough for each address. Default: 250 ms. Negative:
	// one address at a time, each with an equal share of the remaining time.
	FallbackDelay time.Duration

	// Proxy is the URL, with a port, of the proxy to dial through. Schemes are "socks5"
	// and "socks5h" (RFC 1928; user and password as in RFC 1929) and "http" (CONNECT, RFC
	// 9110, with Basic authentication). Dial of tcp only. Default: none. Environment
	// variables are not read.
	//
	// The proxy resolves names and chooses the address: "tcp4" and "tcp6" have an effect
	// for an IP address only. A name must be ASCII. LocalAddr, Resolver, Control and the
	// socket options apply to the connection to the proxy, and RemoteAddr is the proxy's
	// address.
	Proxy string

	// TLS, if not nil, makes Dial and Connect establish TLS (RFC 8446, RFC 5246). The
	// handshake and the verification of the peer's certificate are part of connecting,
	// and nothing is sent before. Streams only. Default: none.
	TLS *TLSOptions

	// Framing decides where RecvPacket ends a packet and how SendPacket marks it. A client
	// with a Framing may receive more than one packet from the kernel at once. Recv and
	// Read then return that data first. Streams only. Default: none.
	Framing Framing

	// PoolKey is an additional part of a Pool's key: Dials with different PoolKeys do not
	// share connections. It has no effect without a Pool. It is no place for a password:
	// Pool.Stats returns it, and package debug shows it.
	PoolKey string

	// Trace has functions to call when a connection is made, used by a Pool, or closed. It
	// is not part of a Pool's key. Default: none.
	Trace *Trace

	// Control is called with the descriptor after the socket is made and before it is
	// bound or connected, to set options that have no field here. network is the network
	// of the socket, as in net.Dialer: "tcp4", "tcp6", "udp4", "udp6", "unix" or
	// "unixgram". address is the address to connect to, and empty for NewTCP and the
	// other functions that do not connect. An error from Control ends the attempt to
	// connect to that address.
	Control func(network, address string, c syscall.RawConn) error
}

// A Switch is an option that is on, off, or left to its default.
type Switch int8

// The values of a Switch.
const (
	SwitchDefault Switch = iota
	SwitchOn
	SwitchOff
)

// Multicast are the multicast options of a UDP client (RFC 1112; RFC 4291, 2.7). The zero
// value sends through an interface of the system's choice to groups on the local network.
type Multicast struct {
	// Groups are the groups to join. All must be of the client's address family. The zone
	// of an IPv6 group is the interface to join it on. A client does not receive from
	// groups that it has not joined (IP_MULTICAST_ALL and IPV6_MULTICAST_ALL are off; the
	// latter needs Linux 4.20). Default: none.
	Groups []netip.Addr

	// Interface is the name of the interface to send through, and to join groups without
	// a zone on. Default: the system's choice.
	Interface string

	// TTL is the number of routers that a datagram may pass, plus 1. Default: 1.
	TTL uint8

	// Loopback delivers sent datagrams to members on this machine too, including the
	// sender. Default: SwitchOn.
	Loopback Switch
}
