package sock

import (
	"bytes"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// maxIovecs is how many buffers one sendmsg(2) takes: UIO_MAXIOV, which is the same on all
// systems.
const maxIovecs = 1024

// A gather is buffers that are sent one after the other, as if they were one.
type gather struct {
	bufs [][]byte // those that are not sent completely
	off  int      // how much of the first is sent
	size int      // of all, in bytes, when the call began
}

// advance removes n bytes that were sent.
func (g *gather) advance(n int) {
	g.off += n
	for len(g.bufs) > 0 && g.off >= len(g.bufs[0]) {
		g.off -= len(g.bufs[0])
		g.bufs = g.bufs[1:]
	}
}

// piece is what to send of a buffer, after others of so many bytes, in one system call.
func (g *gather) piece(i int, stream bool, before int) []byte {
	p := g.bufs[i]
	if i == 0 {
		p = p[g.off:]
	}
	if stream {
		p = p[:min(len(p), maxIO-before)]
	}
	return p
}

// SendBuffers sends buffers one after the other, as Send sends one. It does not change them. On
// a datagram socket they are one datagram. One system call takes up to 1,024 buffers, and on a
// stream 1 MiB.
func (l *IOLock) SendBuffers(bufs [][]byte) (sent int64, err error) {
	if !l.s.stream {
		return l.sendDatagramOf(bufs)
	}
	for len(bufs) > 0 {
		// What one sendAllLocked counts has to fit into an int.
		const most = 1 << 30
		k, size := 0, 0
		for k < len(bufs) && (k == 0 || len(bufs[k]) <= most-size) {
			size += len(bufs[k])
			k++
		}
		g := gather{bufs: bufs[:k], size: size}
		n, err := l.s.sendAllLocked(nil, &g, l.flags, l.until, nil)
		sent += int64(n)
		bufs = bufs[k:]
		switch {
		case err != nil:
			return sent, err
		case len(bufs) > 0 && l.Expired():
			return sent, os.ErrDeadlineExceeded
		}
	}
	return sent, nil
}

func (l *IOLock) sendDatagramOf(bufs [][]byte) (int64, error) {
	size, filled := int64(0), 0
	for _, p := range bufs {
		if size += int64(len(p)); len(p) > 0 {
			filled++
		}
	}
	if size > math.MaxInt32 { // more than any datagram has
		return 0, l.s.syscallErr("sendmsg", unix.EMSGSIZE)
	}
	var n int
	var err error
	switch {
	case filled == 0:
		n, err = l.Send(nil, 0)
	case filled > maxIovecs:
		n, err = l.Send(bytes.Join(bufs, nil), 0)
	default:
		g := gather{bufs: bufs, size: int(size)}
		n, err = l.s.sendAllLocked(nil, &g, l.flags, l.until, nil)
	}
	return int64(n), err
}
