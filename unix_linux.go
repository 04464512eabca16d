package client

import "github.com/blocksock/client/internal/sock"

// autobind gives a unix datagram socket a name that it can be answered at:
// the kernel picks an abstract one, which is gone with the socket, however the
// process ends (unix(7), autobind).
func autobind(s *sock.Socket) error { return s.Bind(sock.Addr{}, nil) }
