package sock

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxSendFile bounds one sendfile(2). A disk or a peer may be slow, and limits are checked
// between system calls.
const maxSendFile = 1 << 20

// ErrNoSendFile is the error of SendFile, with nothing sent, if the kernel does not
// support sending from such a file to such a socket, or the socket is FromFD's.
var ErrNoSendFile = errors.New("sendfile: not supported for this file and socket; read the file and send it")

// SendFile sends count bytes of a file from offset without copying them through this
// process; see sendfile(2). The file's own offset does not change. withFile calls its
// argument with the file's descriptor, once for each system call. If the file ends
// early, the error is io.ErrUnexpectedEOF.
func (l *IOLock) SendFile(withFile func(func(fd uintptr)) error, offset, count int64) (sent int64, err error) {
	s := l.s
	if s.shared && !alwaysPolled {
		return 0, ErrNoSendFile // another owner may make the descriptor blocking meanwhile, and no limit ends the call then
	}
	// sendfile(2) has no MSG_DONTWAIT. A receive that begins meanwhile gets EAGAIN and
	// waits in ppoll(2).
	if err := s.setNonblock(true); err != nil {
		return 0, err
	}
	defer func() { _ = s.setNonblock(false) }()
	if err := s.startHandshake(); err != nil {
		return 0, err
	}
	var retry backoff
	for sent < count {
		if s.refs.Ending() {
			return sent, s.closedErr()
		}
		if s.state.Load()&writeClosed != 0 {
			return sent, s.syscallErr("sendfile", unix.EPIPE) // as in sendLocked
		}
		var n int
		var errno unix.Errno
		at := offset + sent
		if err := withFile(func(fd uintptr) {
			n, errno = s.sysSendFile(int(fd), at, int(min(count-sent, maxSendFile)))
		}); err != nil {
			return sent, err
		}
		sent += int64(n) // some systems return a count and an error
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
