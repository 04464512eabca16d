package tlsconn

import (
	"crypto/tls"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fill sends until there is no room, and returns how many bytes count as sent.
func (c testClient) fill(t *testing.T) (sent int) {
	t.Helper()
	for {
		n, some, err := c.send(make([]byte, 1<<20), unix.MSG_DONTWAIT, 0)
		require.True(t, some || n == 0)
		sent += n
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			return sent
		}
	}
}

// A Send that its limit ends counts whole records, and the rest of the last one goes out by
// itself.
func TestSend_RestGoesOutByItself(t *testing.T) {
	eachVersion(t, func(t *testing.T, server *tls.Config) {
		c, peer, _ := dial(t, server, nil)
		sent := c.fill(t)
		require.Zero(t, sent%maxPlaintext)
		got, err := io.ReadFull(peer, make([]byte, sent))
		require.NoError(t, err)
		require.Equal(t, sent, got)
		n, some, err := c.send(nil, 0, testTimeout)
		require.NoError(t, err)
		require.Zero(t, n)
		require.False(t, some)
		c.closeWrite(t)
		_, _, err = c.send([]byte("x"), 0, testTimeout)
		require.ErrorIs(t, err, unix.EPIPE)
		rest, err := io.ReadAll(peer)
		require.NoError(t, err)
		require.Empty(t, rest)
	})
}

func TestSend_WaitsForTheRestNoLongerThanItsLimit(t *testing.T) {
	c, _, _ := dial(t, nil, nil)
	c.fill(t)
	begin := time.Now()
	n, some, err := c.send([]byte("x"), 0, 20*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Zero(t, n)
	require.False(t, some)
	require.GreaterOrEqual(t, time.Since(begin), 20*time.Millisecond)
	begin = time.Now()
	require.NoError(t, c.Close()) // waits for nobody
	require.Less(t, time.Since(begin), testTimeout/2)
}

func TestSend_LimitEndsAPeerThatKeepsReceiving(t *testing.T) {
	c, peer, _ := dial(t, nil, nil)
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	n, some, err := c.send(make([]byte, 64<<20), 0, 20*time.Millisecond)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.True(t, some)
	require.Positive(t, n)
}

// An error that does not pass ends sending for good.
func TestSend_ErrorOfTheSocketIsRepeated(t *testing.T) {
	c, peer, h := dial(t, nil, nil)
	c.fill(t)
	require.NoError(t, h.Close()) // with data unread: a reset
	_ = peer
	require.Eventually(t, func() bool {
		_, _, err := c.send([]byte("x"), 0, testTimeout)
		return err != nil
	}, testTimeout, time.Millisecond)
	_, _, first := c.send([]byte("x"), 0, testTimeout)
	_, _, second := c.send([]byte("x"), 0, testTimeout)
	require.Error(t, first)
	require.Equal(t, first, second)
	lock, err := c.sock.LockSend(0, testTimeout)
	require.NoError(t, err)
	require.Equal(t, first, c.CloseWrite(&lock))
	c.UnlockSend(lock)
}

func TestSend_QueueIsEmptiedAsItIsSent(t *testing.T) {
	c, peer, _ := dial(t, nil, nil)
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	for range 100 {
		_, _, err := c.send(make([]byte, 64<<10), 0, testTimeout)
		require.NoError(t, err)
	}
	require.Empty(t, c.transport.queued())
	require.LessOrEqual(t, cap(c.transport.buf), 4*maxPlaintext)
}
