package sock

import (
	"bytes"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An ifreq is struct ifreq of netdevice(7) with a number as its union.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	index int32
	_     [20]byte
}

// InterfaceIndex returns the index of an interface in the socket's network namespace,
// which may differ from that of the calling thread (SIOCGIFINDEX). One ioctl costs less
// than net.InterfaceByName, which lists all interfaces.
func (s *Socket) InterfaceIndex(name string) (int, error) {
	if !IsInterfaceName(name) {
		return 0, os.NewSyscallError("ioctl", unix.ENODEV)
	}
	var r ifreq
	copy(r.name[:], name)
	if errno := s.ioctl(unix.SIOCGIFINDEX, &r); errno != 0 {
		return 0, os.NewSyscallError("ioctl", errno)
	}
	return int(r.index), nil
}

// interfaceNames caches strings for the names that the kernel returns as bytes, so that a
// datagram from a link-local address allocates nothing. It does not tell which interfaces
// exist.
var interfaceNames struct {
	sync.Mutex
	of [64]string
}

// interfaceName is the reverse of InterfaceIndex (SIOCGIFNAME). It is empty if there is no
// such interface.
func (s *Socket) interfaceName(index uint32) string {
	r := ifreq{index: int32(index)}
	if s.ioctl(unix.SIOCGIFNAME, &r) != 0 {
		return ""
	}
	name := r.name[:]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	interfaceNames.Lock()
	defer interfaceNames.Unlock()
	last := &interfaceNames.of[index%uint32(len(interfaceNames.of))]
	if *last != string(name) {
		*last = string(name)
	}
	return *last
}

func (s *Socket) ioctl(request uintptr, r *ifreq) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(s.fd), request, uintptr(unsafe.Pointer(r)))
	return errno
}
