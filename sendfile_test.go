package client_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fileOf returns an open file with random content, and an offset somewhere in it.
func fileOf(t testing.TB, size int) (*os.File, []byte) {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	f, err := os.Open(tempFile(t, "f", content))
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	_, err = f.Seek(int64(size/3), io.SeekStart)
	require.NoError(t, err)
	return f, content
}

// collects returns what a peer reads until the end.
func collects(peer io.Reader) chan []byte {
	all := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(peer)
		all <- b
	}()
	return all
}

func at(t testing.TB, f *os.File) int64 {
	t.Helper()
	offset, err := f.Seek(0, io.SeekCurrent)
	require.NoError(t, err)
	return offset
}

func TestSendFile_SendsTheRangeAndLeavesTheFileOffset(t *testing.T) {
	inParallelIfShort(t)
	const size = 3<<20 + 17
	for _, r := range []struct{ offset, length, want int64 }{
		{0, 0, size}, {0, size, size}, {size - 1, 0, 1}, {size - 1, 1, 1}, {1 << 20, 12345, 12345}, {5, 2<<20 + 1, 2<<20 + 1}, {0, 1, 1},
	} {
		eachStream(t, func(t *testing.T, network string) {
			f, content := fileOf(t, size)
			c, peer := stream(t, network, nil)
			all := collects(peer)
			n, err := c.SendFile(f, r.offset, r.length)
			require.NoError(t, err)
			require.Equal(t, r.want, n)
			require.EqualValues(t, size/3, at(t, f))
			_, err = c.Send([]byte("more"), 0)
			require.NoError(t, err)
			require.NoError(t, c.Close())
			got := <-all
			require.True(t, bytes.Equal(append(content[r.offset:r.offset+r.want:r.offset+r.want], "more"...), got))
		})
	}
}

// A range that cannot be sent is an error before the first byte.
func TestSendFile_FileErrors(t *testing.T) {
	f, _ := fileOf(t, 100)
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	empty, _ := fileOf(t, 0)
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	closed, _ := fileOf(t, 100)
	require.NoError(t, closed.Close())
	for name, test := range map[string]struct {
		f              *os.File
		offset, length int64
		is             error
		says           string
	}{
		"negative offset":    {f, -1, 10, fs.ErrInvalid, "10 bytes from offset -1, of 100"},
		"negative length":    {f, 0, -1, fs.ErrInvalid, "outside of the file"},
		"from behind":        {f, 101, 0, fs.ErrInvalid, "outside of the file"},
		"to behind":          {f, 50, 51, fs.ErrInvalid, "51 bytes from offset 50, of 100"},
		"too long to add up": {f, 50, 1<<63 - 1, fs.ErrInvalid, "outside of the file"},
		"from the end":       {f, 100, 0, fs.ErrInvalid, "the range is empty"},
		"an empty file":      {empty, 0, 0, fs.ErrInvalid, "the range is empty"},
		"a directory":        {dir, 0, 0, unix.EISDIR, "is a directory"},
		"a device":           {null, 0, 0, fs.ErrInvalid, "not a regular file"},
		"a closed file":      {closed, 0, 0, os.ErrClosed, "closed"},
		"no file":            {nil, 0, 0, fs.ErrInvalid, "invalid"},
	} {
		for _, network := range []string{"tcp", "tls"} {
			t.Run(name+" "+network, func(t *testing.T) {
				c, peer := stream(t, network, nil)
				all := collects(peer)
				n, err := c.SendFile(test.f, test.offset, test.length)
				require.ErrorIs(t, err, test.is)
				require.ErrorContains(t, err, test.says)
				require.Zero(t, n)
				var bad *client.FileError
				require.ErrorAs(t, err, &bad)
				var op *net.OpError
				require.ErrorAs(t, err, &op)
				require.Equal(t, "sendfile", op.Op)
				require.True(t, client.SafeToRetry(err))
				require.NoError(t, c.Close())
				require.Empty(t, <-all)
			})
		}
	}
	eachDatagram(t, func(t *testing.T, network string) {
		_, err := connectedTo(t, network, nil).SendFile(f, 0, 0)
		require.ErrorIs(t, err, unix.EOPNOTSUPP)
	})
	unconnected, err := client.NewTCP(nil)
	require.NoError(t, err)
	_, err = unconnected.SendFile(f, 0, 0)
	require.ErrorIs(t, err, unix.ENOTCONN)
	require.NoError(t, unconnected.Close())
	_, err = unconnected.SendFile(f, 0, 0)
	require.ErrorIs(t, err, net.ErrClosed)
}

// If a file shrinks while it is sent, the error comes with the count of what was sent, and the
// peer has received what the file had.
func TestSendFile_FileThatShrinks(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		const size, left = 64 << 20, 40 << 20
		path := tempFile(t, "f", nil)
		require.NoError(t, os.Truncate(path, size))
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		c, peer := stream(t, network, nil)
		type result struct {
			n   int64
			err error
		}
		done := make(chan result, 1)
		go func() {
			n, err := c.SendFile(f, 0, 0)
			done <- result{n, err}
		}()
		_, err = io.ReadFull(peer, make([]byte, 1)) // it has begun, and waits for room
		require.NoError(t, err)
		require.NoError(t, os.Truncate(path, left))
		got := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, peer)
			got <- n
		}()
		r := <-done
		require.ErrorIs(t, r.err, io.ErrUnexpectedEOF)
		require.NotEqual(t, io.ErrUnexpectedEOF, r.err, "it is not the peer's end")
		var bad *client.FileError
		require.ErrorAs(t, r.err, &bad)
		require.EqualValues(t, left, bad.Size)
		require.EqualValues(t, left, r.n)
		require.False(t, client.SafeToRetry(r.err))
		require.NoError(t, c.Close())
		require.EqualValues(t, left-1, <-got)
	})
}

// Offsets and lengths have more than 32 bits, and one sendfile(2) sends less than 2 GiB. With
// CLIENT_LOAD=full the test sends as much, otherwise a piece at such an offset.
func TestSendFile_MoreThanTwoGigabytes(t *testing.T) {
	const size = 4<<30 + 4097
	path := tempFile(t, "f", nil)
	require.NoError(t, os.Truncate(path, size))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("end"), size-3)
	require.NoError(t, err)
	length := int64(1 << 20)
	if os.Getenv("CLIENT_LOAD") == "full" {
		length = 2<<30 + 1
	}
	c, peer := stream(t, "unix", &client.Options{SendTimeout: -1})
	type tail struct {
		n    int64
		last [3]byte
	}
	got := make(chan tail, 1)
	go func() {
		r := tail{}
		r.n, _ = io.CopyN(io.Discard, peer, length-3)
		n, _ := io.ReadFull(peer, r.last[:])
		m, _ := io.Copy(io.Discard, peer)
		r.n += int64(n) + m
		got <- r
	}()
	n, err := c.SendFile(f, size-length, 0)
	require.NoError(t, err)
	require.Equal(t, length, n)
	require.NoError(t, c.Close())
	r := <-got
	require.Equal(t, length, r.n)
	require.Equal(t, "end", string(r.last[:]))
}

func TestSendFile_LimitEndsItWithTheTrueCount(t *testing.T) {
	inParallelIfShort(t)
	eachStream(t, func(t *testing.T, network string) {
		const limit = 50 * time.Millisecond
		f, content := fileOf(t, 16<<20)
		c, peer := stream(t, network, &client.Options{SendTimeout: limit})
		begin := time.Now()
		n, err := c.SendFile(f, 0, 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), limit)
		require.Positive(t, n)
		require.Less(t, n, int64(len(content)))
		got := make([]byte, n)
		_, err = io.ReadFull(peer, got) // over TLS the rest of a record goes out by itself
		require.NoError(t, err)
		require.True(t, bytes.Equal(content[:n], got))

		require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
		_, err = c.SendFile(f, 0, 0)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetWriteDeadline(time.Time{}))

		// What waits to receive goes on, and waits as before when the file is sent.
		all := collects(peer)
		n, err = c.SendFile(f, 0, 1000)
		require.NoError(t, err)
		require.EqualValues(t, 1000, n)
		require.NoError(t, c.Close())
		require.True(t, bytes.Equal(content[:1000], <-all))
	})
}

func TestSendFile_CloseEndsIt(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		f, _ := fileOf(t, 16<<20)
		c, _ := stream(t, network, &client.Options{SendTimeout: -1})
		done := make(chan error, 1)
		go func() {
			_, err := c.SendFile(f, 0, 0)
			done <- err
		}()
		inKernel(t)
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
	})
}

// A receive waits inside the kernel while a file is sent beside it, during and after.
func TestSendFile_ReceivingGoesOn(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		f, content := fileOf(t, 8<<20)
		c, peer := stream(t, network, nil)
		got := make(chan string, 1)
		go func() {
			p := make([]byte, 4)
			_, err := c.Recv(p, client.WaitAll)
			got <- string(p)
			if err != nil {
				t.Error(err)
			}
		}()
		inKernel(t)
		sent := make(chan error, 1)
		go func() {
			_, err := c.SendFile(f, 0, 0)
			sent <- err
		}()
		received := make([]byte, len(content))
		_, err := io.ReadFull(peer, received[:1])
		require.NoError(t, err)
		_, err = peer.Write([]byte("ab"))
		require.NoError(t, err)
		_, err = io.ReadFull(peer, received[1:])
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.Empty(t, got)
		_, err = peer.Write([]byte("cd"))
		require.NoError(t, err)
		require.Equal(t, "abcd", <-got)
		require.True(t, bytes.Equal(content, received))
	})
}

func TestSendFile_PeerHasGone(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		f, _ := fileOf(t, 16<<20)
		c, peer := stream(t, network, nil)
		require.NoError(t, peer.Close())
		n, err := c.SendFile(f, 0, 0)
		require.True(t, errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET), "%v", err)
		require.Less(t, n, int64(16<<20))
	})
}

// The original sends a file unencrypted on a TLS connection.
func TestSendFile_OverTLSIsNeverInClear(t *testing.T) {
	c, peer, v := valved(t, 0, client.Options{})
	secret := bytes.Repeat([]byte("a secret that nobody may read "), 1000)
	f, err := os.Open(tempFile(t, "secret", secret))
	require.NoError(t, err)
	defer f.Close()
	for name, send := range map[string]func() error{
		"SendFile": func() error { _, err := c.SendFile(f, 0, 0); return err },
		"io.Copy": func() error {
			_, err := f.Seek(0, io.SeekStart)
			require.NoError(t, err)
			_, err = io.Copy(c, f)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan []byte, 1)
			go func() {
				p := make([]byte, len(secret))
				_, _ = io.ReadFull(peer, p)
				got <- p
			}()
			require.NoError(t, send())
			require.Equal(t, secret, <-got)
			v.mu.Lock()
			defer v.mu.Unlock()
			require.Greater(t, v.in.Len(), len(secret))
			require.NotContains(t, v.in.String(), "secret")
		})
	}
}

// io.Copy sends a file from its offset to its end, and moves the offset to the end.
func TestReadFrom_FileGoesThroughTheKernel(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		const size = 1<<20 + 3
		f, content := fileOf(t, size)
		c, peer := stream(t, network, nil)
		all := collects(peer)
		from := at(t, f)
		n, err := io.CopyN(c, f, 1000)
		require.NoError(t, err)
		require.EqualValues(t, 1000, n)
		require.Equal(t, from+1000, at(t, f))
		n, err = io.Copy(c, f)
		require.NoError(t, err)
		require.Equal(t, size-from-1000, n)
		require.EqualValues(t, size, at(t, f))
		n, err = io.Copy(c, f)
		require.NoError(t, err, "nothing is a file's end")
		require.Zero(t, n)
		n, err = io.Copy(c, bytes.NewReader(content[:100]))
		require.NoError(t, err)
		require.EqualValues(t, 100, n)
		n, err = io.CopyN(c, bytes.NewReader(content[:100]), 200)
		require.ErrorIs(t, err, io.EOF)
		require.EqualValues(t, 100, n)
		require.NoError(t, c.Close())
		require.True(t, bytes.Equal(append(append(content[from:], content[:100]...), content[:100]...), <-all))

		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		_, err = io.Copy(c, f)
		require.ErrorIs(t, err, net.ErrClosed)
		if !slices.Contains(tlsNetworks, network) {
			require.Zero(t, at(t, f))
		}
	})
}

// upperCase is a reader that embeds a file and has a Read of its own, like one that decrypts.
type upperCase struct{ *os.File }

func (u upperCase) Read(p []byte) (int, error) {
	n, err := u.File.Read(p)
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

// sameMethods has all methods of a file, and is none.
type sameMethods struct {
	io.Reader
	*os.File
}

func (s sameMethods) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// inWrapper embeds package os's own wrapper of a file.
type inWrapper struct {
	own io.Reader
	io.Reader
}

func (s inWrapper) Read(p []byte) (int, error) { return s.own.Read(p) }

// captured receives the reader that io.Copy makes of a file: package os's own.
type captured struct{ r io.Reader }

func (*captured) Write(p []byte) (int, error) { return len(p), nil }

func (c *captured) ReadFrom(r io.Reader) (int64, error) {
	c.r = r
	return 0, nil
}

// A reader that embeds a file was taken for the file, and sent as it is on disk.
func TestReadFrom_ReadersOwnReadIsUsed(t *testing.T) {
	eachStream(t, func(t *testing.T, network string) {
		const text = "a secret that is not to be sent as it is"
		f, err := os.Open(tempFile(t, "f", []byte(text)))
		require.NoError(t, err)
		defer f.Close()
		var inOS captured
		_, err = io.Copy(&inOS, f)
		require.NoError(t, err)
		upper := bytes.ToUpper([]byte(text))
		own := new(bytes.Reader)
		for name, r := range map[string]io.Reader{
			"embedded":       upperCase{f},
			"embedded twice": struct{ upperCase }{upperCase{f}},
			"same methods":   sameMethods{own, f},
			"a pointer":      &upperCase{f},
			"package os's":   inWrapper{own, inOS.r},
		} {
			for how, send := range map[string]func(c *client.Client) (int64, error){
				"ReadFrom": func(c *client.Client) (int64, error) { return c.ReadFrom(r) },
				"CopyN":    func(c *client.Client) (int64, error) { return io.CopyN(c, r, int64(len(text))) },
				"limited":  func(c *client.Client) (int64, error) { return c.ReadFrom(io.LimitReader(r, 1000)) },
			} {
				_, err := f.Seek(0, io.SeekStart)
				require.NoError(t, err)
				own.Reset(upper)
				c, peer := stream(t, network, nil)
				all := collects(peer)
				n, err := send(c)
				require.NoError(t, err)
				require.EqualValues(t, len(text), n)
				require.NoError(t, c.Close())
				require.Equal(t, string(upper), string(<-all), "%s by %s", name, how)
			}
		}
		// What package os makes of a file in io.Copy is the file; nothing that has it in it is.
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		c, peer := stream(t, network, nil)
		all := collects(peer)
		_, err = c.ReadFrom(inOS.r)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, text, string(<-all))
	})
}

// A file whose size is 0 although it has content, such as those of /proc, is copied too.
func TestReadFrom_FileThatSaysItIsEmpty(t *testing.T) {
	const name = "/proc/self/status"
	if _, err := os.Stat(name); err != nil {
		t.Skip("no /proc")
	}
	f, err := os.Open(filepath.Clean(name))
	require.NoError(t, err)
	defer f.Close()
	c, peer := stream(t, "tcp", nil)
	all := collects(peer)
	n, err := io.Copy(c, f)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	got := <-all
	require.EqualValues(t, len(got), n)
	require.Contains(t, string(got), "Name:")
}
