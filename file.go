package client

import (
	"net"
	"os"

	"github.com/blocksock/client/internal/sock"
)

// FromFile returns a client on the socket that is open as f: one that systemd or another
// parent process has passed, or that another package has opened. The client uses a duplicate
// of the descriptor, which is close-on-exec. f stays open and the caller's: close it, or what
// the peer sees does not end with the client's Close.
//
// The socket is TCP, UDP, a unix stream or a unix datagram socket, with a peer or without one. On
// Linux a TCP connection that has ended still returns what has arrived, but its RemoteAddr is nil. A
// file that is not a socket (unix.ENOTSOCK), a socket that listens for connections and a
// socket of another kind are refused. Options are checked and set as by Dial. Those for making
// or connecting a socket are an *OptionError: LocalAddr, Proxy, TLS, FastOpen, MPTCP, Control,
// Unconnected. For TLS call StartTLS. A UDP socket may be one of both families; an IPv4 address
// that it receives from is then an IPv4-mapped one.
//
// The duplicate and f share what belongs to the socket: options such as NoDelay and KeepAlive,
// received data, and the O_NONBLOCK flag. On Linux FromFile leaves the flag as it is, except
// that a stream without a peer becomes non-blocking; a call that parks for the first time sets it
// for a moment. SendFile reads the file and sends it, because another owner may change the flag.
// On macOS and FreeBSD the socket becomes non-blocking. Receives take one more system call than
// those of a client from Dial.
//
// Errors are a *net.OpError whose Addr is the name of f.
func FromFile(f *os.File, opts *Options) (*Client, error) {
	name := ""
	if f != nil {
		name = f.Name()
	}
	c, err := fromFile(f, orDefaults(opts))
	if err != nil {
		return nil, &net.OpError{Op: opFile, Net: "file", Addr: unresolvedAddr{"file", name}, Err: err}
	}
	return c, nil
}

func fromFile(f *os.File, opts *Options) (*Client, error) {
	raw, err := f.SyscallConn() // Fd would make the file blocking
	if err != nil {
		return nil, err
	}
	var s *sock.Socket
	var hasPeer bool
	if controlErr := raw.Control(func(fd uintptr) { s, hasPeer, err = sock.FromFD(int(fd)) }); controlErr != nil {
		return nil, os.ErrClosed // the only reason, which package os does not tell so
	}
	if err != nil {
		return nil, err
	}
	done := false
	defer func() {
		if !done {
			_ = s.Close()
		}
	}()
	typ := typeOfSocket(s.Kind())
	if err := opts.checkFromFile(); err != nil {
		return nil, err
	}
	p, err := opts.dialConfig(networks[typ.String()])
	if err == nil {
		err = opts.applyTo(s, typ)
	}
	if err != nil {
		return nil, err
	}
	c := wrap(s, typ, typ.String(), opts, newAddressing(opts))
	c.frames = p.frames
	local, peer := s.Addrs()
	c.bound = local.Path != "" || local.IP.Port() != 0
	if hasPeer {
		addrs := &addrPair{local: netAddr(typ, local)}
		if typ.isUnix() || !peer.IsZero() {
			addrs.remote = netAddr(typ, peer)
		}
		c.addrs.Store(addrs)
		c.state.Store(connected)
	}
	done = true
	return c, nil
}

func typeOfSocket(domain int, stream bool) Type {
	for typ := TCP; typ <= UnixDgram; typ++ {
		if typ.domain() == domain && typ.isStream() == stream {
			return typ
		}
	}
	return 0
}

// checkFromFile refuses what is too late for a socket that exists.
func (o *Options) checkFromFile() error {
	for _, option := range []struct {
		name string
		set  bool
	}{
		{"LocalAddr", o.LocalAddr != ""},
		{"Proxy", o.Proxy != ""},
		{"TLS", o.TLS != nil},
		{"FastOpen", o.FastOpen},
		{"MPTCP", o.MPTCP},
		{"Control", o.Control != nil},
		{"Unconnected", o.Unconnected},
	} {
		if option.set {
			return &OptionError{Option: option.name, Reason: "the socket of a file exists already: leave the option unset"}
		}
	}
	return nil
}
