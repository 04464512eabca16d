package client_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// icmpUnreachable sends the ICMP message of a router that a datagram could not be delivered
// (RFC 792), with the header of that datagram, over the loopback.
func icmpUnreachable(t *testing.T, code byte, from, to *net.UDPAddr) {
	t.Helper()
	router, err := net.Dial("ip4:icmp", "127.0.0.1")
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to send ICMP messages")
	}
	require.NoError(t, err)
	defer router.Close()
	const udp = 17
	p := []byte{3, code, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 36, 0, 0, 0, 0, 64, udp, 0, 0}
	p = append(append(p, from.IP.To4()...), to.IP.To4()...)
	p = binary.BigEndian.AppendUint16(p, uint16(from.Port))
	p = binary.BigEndian.AppendUint16(p, uint16(to.Port))
	p = append(p, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[2:], ^uint16(sum>>16+sum))
	_, err = router.Write(p)
	require.NoError(t, err)
}

// unreachableCodes are those of RFC 792 and RFC 1812. Without 4, "fragmentation needed": the
// kernel would take a path MTU for all of the loopback from it, for ten minutes.
func unreachableCodes() iter.Seq[byte] {
	return func(yield func(byte) bool) {
		for code := range byte(16) {
			if code != 4 && !yield(code) {
				return
			}
		}
	}
}

// Codes 5 (with ICMPErrors) and 8 ended the client.
func TestAsyncDatagrams_NoICMPMessageEndsTheClient(t *testing.T) {
	for code := range unreachableCodes() {
		for _, reports := range []bool{false, true} {
			t.Run(fmt.Sprintf("code %d reports=%v", code, reports), func(t *testing.T) {
				peer := packetPeer(t, "udp4")
				e := newAsyncEvents(t)
				a := e.dial("udp4", peer.LocalAddr().String(), &client.Options{ICMPErrors: reports}, nil)
				require.Same(t, a, e.client())
				own := a.Client().LocalAddr().(*net.UDPAddr)
				icmpUnreachable(t, code, own, peer.LocalAddr().(*net.UDPAddr))
				time.Sleep(2 * time.Millisecond)
				_, err := peer.WriteTo([]byte("x"), own)
				require.NoError(t, err)
				e.receives("x")
				require.Empty(t, e.ended)
			})
		}
	}
}

// With ICMPErrors a send is not told of an earlier datagram. It was of code 8.
func TestSend_ICMPMessageAboutAnEarlierDatagramIsNoError(t *testing.T) {
	for code := range unreachableCodes() {
		t.Run(fmt.Sprintf("code %d", code), func(t *testing.T) {
			c, peer := datagrams(t, "udp4", &client.Options{ICMPErrors: true})
			icmpUnreachable(t, code, c.LocalAddr().(*net.UDPAddr), peer.LocalAddr().(*net.UDPAddr))
			time.Sleep(2 * time.Millisecond)
			_, err := c.Send([]byte("x"), 0)
			require.NoError(t, err)
			n, _, err := peer.ReadFrom(make([]byte, 2))
			require.NoError(t, err)
			require.Equal(t, 1, n)
		})
	}
}
