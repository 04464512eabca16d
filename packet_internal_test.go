package client

import (
	"encoding/binary"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A buffer that one large packet has made is given up when none needs it any more.
func TestALargeBufferIsGivenUp(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer ln.Close()
	c, err := Dial("unix", ln.Addr().String(), &Options{Framing: LengthPrefix{BodyOffset: 4}})
	require.NoError(t, err)
	defer c.Close()
	peer, err := ln.Accept()
	require.NoError(t, err)
	defer peer.Close()
	receives := func(size int) []byte {
		go func() {
			_, _ = peer.Write(append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...))
		}()
		p, err := c.RecvPacket()
		require.NoError(t, err)
		require.Len(t, p, 4+size)
		return p
	}
	receives(10)
	require.LessOrEqual(t, len(c.packets.buf), leastAhead, "what is not needed is not taken")
	for range 2 {
		receives(1 << 20)
		require.Greater(t, len(c.packets.buf), 1<<20)
		for range patience / 2 {
			receives(10)
		}
		require.Greater(t, len(c.packets.buf), 1<<20, "another may come")
	}
	for range patience {
		receives(10)
	}
	require.LessOrEqual(t, len(c.packets.buf), readAhead)
}
