package sock

import "os"

// Bind binds the socket to an address. The zero Addr makes Linux choose an unused
// abstract unix name (unix(7), autobind). If made is not nil, Bind calls it after success
// and calls the undo it returns after close(2).
func (s *Socket) Bind(a Addr, made func() (undo func())) error {
	if err := s.incref(); err != nil {
		return err
	}
	defer s.decref()
	var n rawSockaddr
	if err := n.set(s, a); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if errno := s.sysBind(&n); errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	if made != nil {
		s.onClose = made()
	}
	return nil
}

// Local is the socket's own address, or the zero Addr if it has none.
func (s *Socket) Local() Addr {
	if s.incref() != nil {
		return Addr{}
	}
	defer s.decref()
	var n rawSockaddr
	if s.sysLocal(&n) != 0 {
		return Addr{}
	}
	return n.addr(s)
}
