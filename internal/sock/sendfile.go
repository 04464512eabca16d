package sock

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxSendFile bounds one sendfile(2): nothing but Close ends it before its time,
// and a disk or a peer may be slow.
const maxSendFile = 1 << 20

// ErrNoSendFile is SendFile's error, with nothing sent, where the kernel cannot
// send from such a file to such a socket.
var ErrNoSendFile = errors.New("sendfile: not for this file or socket")

// SendFile sends count bytes of a file, from offset on, without passing them
// through this process; see sendfile(2). The file's own offset stays where it is.
// lend calls its argument with the file's descriptor, each time for one system
// call. A file that ends early is io.ErrUnexpectedEOF.
func (l *IOLock) SendFile(withFile func(func(fd uintptr)) error, offset, count int64) (sent int64, err error) {
	s := l.s
	// sendfile(2) has no MSG_DONTWAIT. A receive that begins meanwhile meets EAGAIN
	// and waits in poll(2).
	if err := s.setNonblock(true); err != nil {
		return 0, err
	}
	defer func() { _ = s.setNonblock(false) }()
	if err := s.startHandshake(); err != nil {
		return 0, err
	}
	var retry backoff
	for sent < count {
		if s.life.isOver() {
			return sent, s.closedErr()
		}
		if s.state.Load()&writeClosed != 0 {
			return sent, s.syscallErr("sendfile", unix.EPIPE) // as for transmit
		}
		var n int
		var errno unix.Errno
		at := offset + sent
		if err := withFile(func(fd uintptr) {
			n, errno = s.sysSendFile(int(fd), at, int(min(count-sent, maxSendFile)))
		}); err != nil {
			return sent, err
		}
		sent += int64(n) // some systems give a count and an error
		switch {
		case n > 0:
			if sent < count && l.Expired() {
				return sent, os.ErrDeadlineExceeded
			}
			retry = 0
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			if err := s.waitReady(l.d, unix.POLLOUT, l.until, &retry); err != nil {
				return sent, err
			}
		case errno == 0:
			return sent, io.ErrUnexpectedEOF
		case sent == 0 && isUnsupported(errno):
			return 0, ErrNoSendFile
		default:
			return sent, s.syscallErr("sendfile", errno)
		}
	}
	return sent, nil
}

func isUnsupported(errno unix.Errno) bool {
	return errno == unix.EINVAL || errno == unix.ENOSYS || errno == unix.EOPNOTSUPP ||
		errno == unix.ENOTSUP || errno == unix.ENOTSOCK
}

func (s *Socket) sysSendFile(fd int, offset int64, count int) (int, unix.Errno) {
	s.wr.syscalls.Add(1)
	n, err := unix.Sendfile(s.fd, fd, &offset, count)
	errno := errnoOf(err)
	if errno != 0 {
		s.recordErr(errno)
	}
	s.wr.syscalls.Add(1)
	return max(n, 0), errno
}
