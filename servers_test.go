package client_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// These tests start real servers. If a program is not installed its tests are skipped,
// or fail if CLIENT_REQUIRE_SERVERS is 1.

// requireProgram returns the path of a program, or ends the test with the name of its
// Debian package.
func requireProgram(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := testserver.Find(name, debian)
	testserver.Require(t, err)
	return path
}

// startServer starts a program on a free port with a directory of its own. It returns when
// ready returns nil: this server answers, and not another one that took the port first.
// The end of the test stops it.
func startServer(t testing.TB, path string, args func(port string) []string, ready func(s *testserver.Server) error) *testserver.Server {
	t.Helper()
	s, err := testserver.Start(testserver.Spec{Path: path, Args: func(s *testserver.Server) []string { return args(s.Port) }, Ready: ready})
	return testserver.Serve(t, s, err)
}

// startRedis starts a redis server on TCP and on a unix socket, and returns its address on
// each network.
func startRedis(t *testing.T) (s *testserver.Server, addrs map[string]string) {
	t.Helper()
	s, err := testserver.Redis()
	testserver.Serve(t, s, err)
	return s, map[string]string{"tcp": s.Addr, "unix": s.Socket()}
}

// startMemcached starts a memcached server on TCP and UDP.
func startMemcached(t *testing.T, settings ...string) *testserver.Server {
	t.Helper()
	s, err := testserver.Memcached(settings...)
	return testserver.Serve(t, s, err)
}

// startDnsmasq starts a DNS server that knows one name.
func startDnsmasq(t *testing.T, name dnsmessage.Name, ip [4]byte) *testserver.Server {
	t.Helper()
	path := requireProgram(t, "dnsmasq", "dnsmasq-base")
	known := "--address=/" + strings.TrimSuffix(name.String(), ".") + "/" + netip.AddrFrom4(ip).String()
	return startServer(t, path, func(port string) []string {
		return []string{
			"--no-daemon", "--log-facility=-", "--conf-file=" + os.DevNull, "--no-resolv", "--no-hosts",
			"--listen-address=127.0.0.1", "--bind-interfaces", "--port=" + port, known,
		}
	}, func(s *testserver.Server) error {
		return testserver.Answers("udp", s.Addr, string(dnsQuestion(t, 1, name)), string(ip[:]))
	})
}

func dialServer(t *testing.T, network, address string, opts *client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(network, address, opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// sends sends a whole request.
func sends(t *testing.T, c *client.Client, request []byte) {
	t.Helper()
	n, err := c.Send(request, 0)
	require.NoError(t, err)
	require.Equal(t, len(request), n)
}

// receives receives len(want) bytes from a stream and compares them with want.
func receives(t *testing.T, c *client.Client, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := c.Recv(got, client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	if len(want) < 100 {
		require.Equal(t, string(want), string(got))
		return
	}
	require.True(t, bytes.Equal(want, got), "%d bytes are not those that were sent", n) // does not print them
}

// receivesNoMore checks that the server has sent no further byte.
func receivesNoMore(t *testing.T, c *client.Client) {
	t.Helper()
	n, err := c.Recv(make([]byte, 1), client.DontWait)
	require.ErrorIs(t, err, unix.EAGAIN)
	require.Zero(t, n)
	require.True(t, c.IsConnected())
}

// randomBytes returns n random bytes, line ends and zeros among them.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}

func TestRedis_GivesBackAMebibyteOverTCP(t *testing.T) {
	_, addrs := startRedis(t)
	redisGivesBackAMebibyte(t, dialServer(t, "tcp", addrs["tcp"], nil))
}

func TestRedis_GivesBackAMebibyteOverUnix(t *testing.T) {
	_, addrs := startRedis(t)
	redisGivesBackAMebibyte(t, dialServer(t, "unix", addrs["unix"], nil))
}

func redisGivesBackAMebibyte(t *testing.T, c *client.Client) {
	value := randomBytes(1 << 20)
	sends(t, c, fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n%s\r\n", len(value), value))
	receives(t, c, []byte("+OK\r\n"))

	sends(t, c, []byte("*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"))
	header := fmt.Appendf(nil, "$%d\r\n", len(value))
	peeked := make([]byte, len(header))
	n, err := c.Recv(peeked, client.Peek|client.WaitAll)
	require.NoError(t, err)
	require.Equal(t, string(header), string(peeked[:n]))
	receives(t, c, header)
	receives(t, c, value)
	receives(t, c, []byte("\r\n"))
	receivesNoMore(t, c)
}

func TestRedis_KillEndsRecvOverTCP(t *testing.T) { redisIsKilled(t, "tcp") }

func TestRedis_KillEndsRecvOverUnix(t *testing.T) { redisIsKilled(t, "unix") }

func redisIsKilled(t *testing.T, network string) {
	s, addrs := startRedis(t)
	c := dialServer(t, network, addrs[network], &client.Options{RecvTimeout: time.Minute})
	sends(t, c, []byte("BLPOP nothing 0\r\n")) // which is never answered
	type result struct {
		n   int
		err error
	}
	received := make(chan result, 1)
	go func() {
		n, err := c.Recv(make([]byte, 1), 0)
		received <- result{n, err}
	}()
	inKernel(t)
	require.True(t, c.IsConnected())
	s.Kill()
	select {
	case r := <-received:
		require.Zero(t, r.n)
		if r.err != io.EOF { //nolint:errorlint // bare, as documented
			require.ErrorIs(t, r.err, unix.ECONNRESET)
		}
	case <-time.After(testTimeout): // long before RecvTimeout
		t.Fatal("Recv does not notice")
	}
	require.False(t, c.IsConnected())
}

func TestMemcached_GivesBackAValueOverTCP(t *testing.T) {
	s := startMemcached(t)
	c := dialServer(t, "tcp", s.Addr, nil)
	value := randomBytes(512 << 10) // an item of 1 MiB is more than it takes by default
	sends(t, c, fmt.Appendf(nil, "set key 7 0 %d\r\n%s\r\n", len(value), value))
	receives(t, c, []byte("STORED\r\n"))
	sends(t, c, []byte("get key\r\n"))
	receives(t, c, fmt.Appendf(nil, "VALUE key 7 %d\r\n", len(value)))
	receives(t, c, value)
	receives(t, c, []byte("\r\nEND\r\n"))
	receivesNoMore(t, c)
}

func TestMemcached_GivesBackAValueOverUDP(t *testing.T) {
	s := startMemcached(t)
	c := dialServer(t, "udp", s.Addr, nil)
	value := randomBytes(10 << 10) // a request is one datagram, a reply several
	sends(t, c, fmt.Appendf(nil, "%sset key 7 0 %d\r\n%s\r\n", memcachedFrame(0xbeef), len(value), value))
	require.Equal(t, "STORED\r\n", string(memcachedReply(t, c, 0xbeef)))

	sends(t, c, []byte(memcachedFrame(0xcafe)+"get key\r\n"))
	want := fmt.Appendf(nil, "VALUE key 7 %d\r\n%s\r\nEND\r\n", len(value), value)
	require.True(t, bytes.Equal(want, memcachedReply(t, c, 0xcafe)), "the value is not the one that was stored")
	receivesNoMore(t, c)
}

// memcachedFrame is the header of a request over UDP (memcached's protocol.txt, "UDP
// protocol"): request ID, sequence number, number of datagrams, reserved.
func memcachedFrame(id uint16) string {
	h := binary.BigEndian.AppendUint16(nil, id)
	return string(append(h, 0, 0, 0, 1, 0, 0))
}

// memcachedReply joins the datagrams of a reply in the order of their sequence numbers.
func memcachedReply(t *testing.T, c *client.Client, id uint16) []byte {
	t.Helper()
	var parts [][]byte
	for received := 0; parts == nil || received < len(parts); received++ {
		// A peek of the header returns the size of the datagram.
		var h [8]byte
		n, err := c.Recv(h[:], client.Peek)
		var cut *client.TruncatedError
		require.ErrorAs(t, err, &cut)
		require.Equal(t, len(h), n)
		require.Equal(t, len(h), cut.Got)

		d := make([]byte, cut.Size)
		n, err = c.Recv(d, 0)
		require.NoError(t, err)
		require.Equal(t, cut.Size, n)
		require.Equal(t, h[:], d[:len(h)])

		number, total := int(binary.BigEndian.Uint16(h[2:])), int(binary.BigEndian.Uint16(h[4:]))
		if parts == nil {
			parts = make([][]byte, total)
		}
		require.Equal(t, id, binary.BigEndian.Uint16(h[:]))
		require.Len(t, parts, total)
		require.Less(t, number, total)
		require.Nil(t, parts[number], "datagram %d came twice", number)
		require.Zero(t, binary.BigEndian.Uint16(h[6:]))
		parts[number] = d[len(h):]
	}
	return bytes.Join(parts, nil)
}

func TestDnsmasq_AnswersOverConnectedUDP(t *testing.T) {
	name, ip := dnsName(), [4]byte{192, 0, 2, 1}
	s := startDnsmasq(t, name, ip)
	c := dialServer(t, "udp", s.Addr, nil)
	for id := range uint16(3) {
		sends(t, c, dnsQuestion(t, id, name))
		reply := make([]byte, 512)
		n, err := c.Recv(reply, 0)
		require.NoError(t, err)
		require.Equal(t, ip, dnsAnswer(t, reply[:n], id, name))
	}
	receivesNoMore(t, c)
}

func TestDnsmasq_TwoServersAnswerOneUnconnectedUDPSocket(t *testing.T) {
	name := dnsName()
	ips := [][4]byte{{192, 0, 2, 1}, {192, 0, 2, 2}}
	servers := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		servers[i] = netip.MustParseAddrPort(startDnsmasq(t, name, ip).Addr)
	}
	c, err := client.NewUDP(&client.Options{LocalAddr: "127.0.0.1:0"})
	require.NoError(t, err)
	defer c.Close()

	ways := []struct {
		send func(p []byte, to netip.AddrPort) (int, error)
		recv func(p []byte) (int, netip.AddrPort, error)
	}{
		{
			send: func(p []byte, to netip.AddrPort) (int, error) {
				return c.SendTo(p, net.UDPAddrFromAddrPort(to))
			},
			recv: func(p []byte) (int, netip.AddrPort, error) {
				n, from, err := c.RecvFrom(p, 0)
				require.IsType(t, &net.UDPAddr{}, from)
				return n, from.(*net.UDPAddr).AddrPort(), err
			},
		},
		{
			send: c.SendToAddrPort,
			recv: func(p []byte) (int, netip.AddrPort, error) { return c.RecvFromAddrPort(p, 0) },
		},
	}
	for way, do := range ways {
		idOf := func(server int) uint16 { return uint16(way<<8 | server) }
		for i, to := range servers {
			question := dnsQuestion(t, idOf(i), name)
			n, err := do.send(question, to)
			require.NoError(t, err)
			require.Equal(t, len(question), n)
		}
		answers := make(map[netip.AddrPort][4]byte)
		for range servers {
			reply := make([]byte, 512)
			n, from, err := do.recv(reply)
			require.NoError(t, err)
			i := slices.Index(servers, from)
			require.GreaterOrEqual(t, i, 0, "an answer from %v, who was not asked", from)
			answers[from] = dnsAnswer(t, reply[:n], idOf(i), name)
		}
		require.Equal(t, map[netip.AddrPort][4]byte{servers[0]: ips[0], servers[1]: ips[1]}, answers)
	}
	require.Nil(t, c.RemoteAddr())
}

// dnsName returns a random name.
func dnsName() dnsmessage.Name {
	return dnsmessage.MustNewName(strings.ToLower(rand.Text()) + ".test.")
}

func dnsQuestion(t *testing.T, id uint16, name dnsmessage.Name) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	require.NoError(t, b.StartQuestions())
	require.NoError(t, b.Question(dnsmessage.Question{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}))
	question, err := b.Finish()
	require.NoError(t, err)
	return question
}

// dnsAnswer returns the only address in the reply to question id.
func dnsAnswer(t *testing.T, reply []byte, id uint16, name dnsmessage.Name) [4]byte {
	t.Helper()
	var m dnsmessage.Message
	require.NoError(t, m.Unpack(reply))
	require.Equal(t, id, m.ID)
	require.True(t, m.Response)
	require.Equal(t, dnsmessage.RCodeSuccess, m.RCode)
	require.Equal(t, []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}, m.Questions)
	require.Len(t, m.Answers, 1)
	require.Equal(t, name, m.Answers[0].Header.Name)
	require.IsType(t, &dnsmessage.AResource{}, m.Answers[0].Body)
	return m.Answers[0].Body.(*dnsmessage.AResource).A
}
