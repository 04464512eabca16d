package wire

import (
	"context"
	"net"
	"sync"
)

// A DialFunc is what a driver takes.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// A Log has the connections that were dialled, by whomever.
type Log struct {
	mu    sync.Mutex
	conns []net.Conn
}

// Noting is a dial function whose connections are in the log.
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

// Dials counts the connections that there have been.
func (l *Log) Dials() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// Last is the connection that was made last.
func (l *Log) Last() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[len(l.conns)-1]
}

// Open counts those that nobody has closed yet.
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
