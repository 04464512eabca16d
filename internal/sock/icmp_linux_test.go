package sock

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// controlMessage builds a control message of MSG_ERRQUEUE.
func controlMessage(level, typ int32, data []byte) []byte {
	m := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&m[0])) // its length has the machine's word size
	h.SetLen(unix.CmsgLen(len(data)))
	h.Level, h.Type = level, typ
	copy(m[unix.CmsgLen(0):], data)
	return m
}

func extendedErr(errno unix.Errno, typ, code byte, info uint32, by ...byte) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b, uint32(errno))
	b[4], b[5], b[6] = unix.SO_EE_ORIGIN_ICMP, typ, code
	binary.NativeEndian.PutUint32(b[8:], info)
	return append(b, by...)
}

func TestICMPError_IsParsedFromTheErrorQueue(t *testing.T) {
	v4 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET), 0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0)
	v6 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), make([]byte, 26)...)
	v6[8+15] = 1
	for name, test := range map[string]struct {
		control []byte
		want    *ICMPError
	}{
		"IPv4": {
			controlMessage(unix.IPPROTO_IP, unix.IP_RECVERR, extendedErr(unix.ECONNREFUSED, 3, 3, 0, v4...)),
			&ICMPError{Errno: unix.ECONNREFUSED, Type: 3, Code: 3, By: netip.MustParseAddr("192.0.2.1")},
		},
		"IPv6": {
			controlMessage(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, extendedErr(unix.EHOSTUNREACH, 1, 0, 7, v6...)),
			&ICMPError{Errno: unix.EHOSTUNREACH, Type: 1, By: netip.IPv6Loopback()},
		},
		"too long": {
			controlMessage(unix.IPPROTO_IP, unix.IP_RECVERR, extendedErr(unix.EMSGSIZE, 3, 4, 1400)),
			&ICMPError{Errno: unix.EMSGSIZE, Type: 3, Code: 4, MTU: 1400},
		},
		"behind another": {
			append(controlMessage(unix.SOL_SOCKET, unix.SO_TIMESTAMP, make([]byte, 16)),
				controlMessage(unix.IPPROTO_IP, unix.IP_RECVERR, extendedErr(unix.ENETUNREACH, 3, 0, 0, v4[:9]...))...),
			&ICMPError{Errno: unix.ENETUNREACH, Type: 3},
		},
		"too short": {control: controlMessage(unix.IPPROTO_IP, unix.IP_RECVERR, make([]byte, 15))},
		"nothing":   {},
		"nonsense":  {control: []byte{1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, parseICMP(test.control)) })
	}
}

func FuzzErrorQueue(f *testing.F) {
	f.Add(controlMessage(unix.IPPROTO_IP, unix.IP_RECVERR, extendedErr(unix.ECONNREFUSED, 3, 3, 0, make([]byte, 16)...)))
	f.Add(controlMessage(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, extendedErr(unix.EMSGSIZE, 2, 0, 1280, make([]byte, 28)...)))
	f.Fuzz(func(_ *testing.T, control []byte) { _ = parseICMP(control) })
}
