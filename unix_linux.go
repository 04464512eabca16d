package client

import "github.com/blocksock/client/internal/sock"

// autobind gives a unix datagram socket a name that peers can answer to. The kernel picks
// an abstract name (unix(7), autobind), which disappears with the socket, however the
// process ends.
func autobind(s *sock.Socket) error { return s.Bind(sock.Addr{}, nil) }
