package client

import (
	"cmp"
	"fmt"
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
	// an IP address and a port; port 0 is one of the system's choice, and an
	// empty host is any of this machine's addresses. With an address of one
	// family, only peers of that family are tried. For unix and unixgram it is a
	// path, which is removed when the client is closed, or a Linux abstract name
	// ("@name"). Empty: the system chooses, and a unixgram client gets a name
	// that it can be answered at.
	LocalAddr string

	// NoDelay sends small segments at once instead of waiting for the peer's
	// acknowledgement of the last (TCP_NODELAY, Nagle's algorithm off; tcp(7)).
	// Default: On. TCP only; to set it for another network is an error.
	NoDelay Switch

	// Resolver looks names up. Default: net.DefaultResolver.
	Resolver *net.Resolver

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

	// Key is the caller's part of a Pool's key: two who dial the same with
	// different Keys get no connection from each other. Without a pool it means
	// nothing.
	Key string

	// Control is called with the descriptor after the socket has been made and
	// before it is bound or connected, to set options that have no field here.
	// address is the one about to be connected to, and empty for a client from
	// NewTCP and its kin. An error from it ends that attempt.
	Control func(network, address string, c syscall.RawConn) error
}

// A Switch is an option that is left to its default, on, or off.
type Switch int8

// The states of a Switch.
const (
	Default Switch = iota
	On
	Off
)

// limits are the timeouts of a client with the defaults filled in; negative
// is none.
type limits struct{ connect, recv, send time.Duration }

func (o *Options) limits() limits {
	return limits{
		connect: cmp.Or(o.ConnectTimeout, o.Timeout, DefaultTimeout),
		recv:    cmp.Or(o.RecvTimeout, o.Timeout, DefaultTimeout),
		send:    cmp.Or(o.SendTimeout, o.Timeout, DefaultTimeout),
	}
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
	switch {
	case o.NoDelay < Default || o.NoDelay > Off:
		return nil, &OptionError{Option: "NoDelay", Reason: fmt.Sprintf("%d is neither Default nor On nor Off", o.NoDelay)}
	case o.NoDelay != Default && !n.isTCP():
		return nil, &OptionError{Option: "NoDelay", Reason: "only tcp has it"}
	case o.TLS != nil && !n.isStream():
		return nil, &OptionError{Option: "TLS", Reason: "only streams have it"}
	}
	p := &plan{opts: o, net: n}
	var err error
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
func (o *Options) clone() *Options {
	c := *o
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
