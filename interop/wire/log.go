package wire

import (
	"context"
	"net"
	"sync"
)

// A DialFunc is a dial function for a driver.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// A Log records connections.
type Log struct {
	mu    sync.Mutex
	conns []net.Conn
}

// Noting returns a dial function that records its connections.
func (l *Log) Noting(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = append(l.conns, conn)
		return conn, nil
	}
}

// Dials returns the number of recorded connections.
func (l *Log) Dials() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// Last returns the most recent connection.
func (l *Log) Last() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[len(l.conns)-1]
}

// Open returns the number of connections that are not closed.
func (l *Log) Open() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		if isOpen(conn) {
			n++
		}
	}
	return n
}
