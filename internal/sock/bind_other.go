//go:build darwin || freebsd

package sock

import "golang.org/x/sys/unix"

// BindNoPort is Bind: these systems choose the port at once.
func (s *Socket) BindNoPort(a Addr) error { return s.Bind(a, nil) }

// BindPort binds a TCP socket to an address whose port is not in use. Closed connections
// do not count. On these systems SO_REUSEADDR gives that rule (setsockopt(2)), and shared
// makes no difference.
func (s *Socket) BindPort(a Addr, _ bool) error {
	if err := s.SetInt(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return s.Bind(a, nil)
}

// SetReuseAddr does nothing: BindPort has set SO_REUSEADDR.
func (*Socket) SetReuseAddr(bool) error { return nil }
