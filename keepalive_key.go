package client

import (
	"slices"
	"syscall"
	"unsafe"
)

// A place is a part of what two connections have to have in common to stand for
// each other; the rest is in the options.
type place struct{ key, network, address string }

// sameKey reports whether the options make connections that can stand for each
// other: it compares whatever decides what a connection is and with whom. An option
// that is added belongs in here unless it is about the use of a connection alone.
func (o *Options) sameKey(p *Options) bool {
	if o == p { // as the defaults are, of which there is no copy
		return true
	}
	return o.Proxy == p.Proxy && o.LocalAddr == p.LocalAddr && o.Resolver == p.Resolver &&
		identity(o.Control) == identity(p.Control) && o.sameSocket(p) && o.TLS.same(p.TLS)
}

func (t *TLSOptions) same(as *TLSOptions) bool {
	if t == nil || as == nil {
		return t == as
	}
	return t.ServerName == as.ServerName &&
		(t.NextProtos == nil) == (as.NextProtos == nil) && slices.Equal(t.NextProtos, as.NextProtos) && // nil is Config's
		t.CAFile == as.CAFile && t.CAPath == as.CAPath && t.CRLFile == as.CRLFile &&
		t.CertFile == as.CertFile && t.KeyFile == as.KeyFile && t.Passphrase == as.Passphrase &&
		t.AllowSelfSigned == as.AllowSelfSigned && t.RequireStaple == as.RequireStaple && t.InsecureSkipVerify == as.InsecureSkipVerify &&
		t.VerifyDepth == as.VerifyDepth && t.MinVersion == as.MinVersion && t.MaxVersion == as.MaxVersion && t.Config == as.Config
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
