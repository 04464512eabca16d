//go:build darwin || freebsd

package sock

import "golang.org/x/sys/unix"

// BindNoPort is Bind: these systems choose the port at once.
func (s *Socket) BindNoPort(a Addr) error { return s.Bind(a, nil) }

// BindPort binds a TCP socket to an address with a port that nobody uses; connections
// that are over do not count. Here SO_REUSEADDR is that rule (setsockopt(2)), and
// shared makes no difference.
func (s *Socket) BindPort(a Addr, _ bool) error {
	if err := s.SetInt(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return s.Bind(a, nil)
}

// AllowReuse is for Linux.
func (*Socket) SetReuseAddr(bool) error { return nil }
