package client

import (
	"crypto/tls"
	"net"
	"strings"
	"syscall"
	"unsafe"
)

// A place and a poolKey are what two connections have to have in common to stand
// for each other: every option that decides what a connection is and with whom. An
// option that is added belongs in here unless it is about the use of a connection
// alone.
type place struct{ key, network, address string }

type poolKey struct {
	proxy, localAddr string
	socket           socketKey
	resolver         *net.Resolver
	control          unsafe.Pointer
	tls              bool // then there is a tlsKey too
}

type tlsKey struct {
	serverName, protocols         string
	caFile, caPath, crlFile       string
	certFile, keyFile, passphrase string
	selfSigned, staple, insecure  bool
	depth                         int
	minVersion, maxVersion        uint16
	config                        *tls.Config
}

func keyOf(o *Options) poolKey {
	return poolKey{
		proxy: o.Proxy, localAddr: o.LocalAddr, socket: o.socketKey(),
		resolver: o.Resolver, control: identity(o.Control), tls: o.TLS != nil,
	}
}

func tlsKeyOf(t *TLSOptions) tlsKey {
	return tlsKey{
		serverName: t.ServerName, protocols: strings.Join(t.NextProtos, "\x00"),
		caFile: t.CAFile, caPath: t.CAPath, crlFile: t.CRLFile,
		certFile: t.CertFile, keyFile: t.KeyFile, passphrase: t.Passphrase,
		selfSigned: t.AllowSelfSigned, staple: t.RequireStaple, insecure: t.InsecureSkipVerify,
		depth: t.VerifyDepth, minVersion: t.MinVersion, maxVersion: t.MaxVersion, config: t.Config,
	}
}

// isFor reports whether a shelf has the key of options, which are of its place.
func (s *shelf) isFor(o *Options) bool {
	return s.key == keyOf(o) && (o.TLS == nil || s.tls == tlsKeyOf(o.TLS))
}

// identity tells function values apart. A function value is a pointer to its code
// and what it has captured, so two that are one pointer do the same, which cannot
// be said of two that have their code in common. The shelf of a key keeps the
// function, and with it the pointer from being another's.
func identity(f func(string, string, syscall.RawConn) error) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&f))
}

// A stack is a list of connections, the one that was used last on top. There are
// two, and a connection that is idle is in both.
type stack struct {
	which          int
	n              int
	newest, oldest *kept
}

const (
	ofShelf = iota
	ofPool
)

type links struct{ newer, older *kept }

func (s *stack) push(k *kept) {
	k.in[s.which] = links{older: s.newest}
	if s.newest != nil {
		s.newest.in[s.which].newer = k
	} else {
		s.oldest = k
	}
	s.newest = k
	s.n++
}

func (s *stack) remove(k *kept) {
	l := k.in[s.which]
	if l.newer != nil {
		l.newer.in[s.which].older = l.older
	} else {
		s.newest = l.older
	}
	if l.older != nil {
		l.older.in[s.which].newer = l.newer
	} else {
		s.oldest = l.newer
	}
	k.in[s.which] = links{}
	s.n--
}
