package client_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/stretchr/testify/require"
)

func TestRecvPacket_RedisPipelineByLine(t *testing.T) {
	_, addrs := startRedis(t)
	for network, addr := range addrs {
		t.Run(network, func(t *testing.T) {
			c := dialServer(t, network, addr, &client.Options{Framing: lines})
			const commands = 1000
			var pipeline bytes.Buffer
			for i := range commands {
				fmt.Fprintf(&pipeline, "INCR counter\r\nECHO line-%d\r\n", i)
			}
			sends(t, c, pipeline.Bytes())
			for i := range commands {
				wantPacket(t, c, fmt.Sprintf(":%d\r\n", i+1))
				said := fmt.Sprintf("line-%d", i)
				wantPacket(t, c, fmt.Sprintf("$%d\r\n", len(said)))
				receives(t, c, []byte(said)) // by its length, as the protocol has it
				wantPacket(t, c, "\r\n")
			}
			_, err := c.SendPacket([]byte("DEL counter"))
			require.NoError(t, err)
			wantPacket(t, c, ":1\r\n")
			receivesNoMore(t, c)
		})
	}
}

// postgresMessages are a type in one byte and a length that counts itself.
var postgresMessages = client.LengthPrefix{Encoding: 'N', Offset: 1, BodyOffset: 1}

func TestRecvPacket_PostgreSQLMessages(t *testing.T) {
	inParallelIfShort(t)
	server, err := testserver.Postgres()
	s := testserver.Serve(t, server, err)
	c := dialServer(t, "tcp", s.Addr, &client.Options{Framing: postgresMessages})
	startup := []byte("\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00")
	sends(t, c, append(binary.BigEndian.AppendUint32(nil, uint32(4+len(startup))), startup...)) // the one without a type
	kinds := untilReady(t, c, nil)
	require.Equal(t, byte('R'), kinds[0])
	require.Contains(t, string(kinds), "SSSSSS")
	require.Contains(t, string(kinds), "K")

	query := func(sql string) (rows []string, kinds []byte) {
		_, err := c.SendPacket([]byte("Q" + sql + "\x00"))
		require.NoError(t, err)
		kinds = untilReady(t, c, func(m []byte) {
			if m[0] == 'D' { // one column: two bytes of count, four of length
				rows = append(rows, string(m[11:]))
			}
		})
		return rows, kinds
	}
	rows, kinds := query("select n * n from generate_series(1, 1000) n")
	require.Len(t, rows, 1000)
	require.Equal(t, "998001", rows[998])
	require.Equal(t, "T"+strings.Repeat("D", 1000)+"CZ", string(kinds))

	long := strings.Repeat("0123456789", 150_000) // a row that fills more than a buffer
	rows, _ = query("select '" + long + "'")
	require.Equal(t, []string{long}, rows)

	_, kinds = query("select no_such_column")
	require.Equal(t, "EZ", string(kinds))
	rows, _ = query("select 'still there'")
	require.Equal(t, []string{"still there"}, rows)
	receivesNoMore(t, c)
}

// untilReady returns the types of the messages up to ReadyForQuery.
func untilReady(t *testing.T, c *client.Client, each func(m []byte)) (kinds []byte) {
	t.Helper()
	for m, err := range c.Packets() {
		require.NoError(t, err)
		require.Equal(t, int(binary.BigEndian.Uint32(m[1:])), len(m)-1)
		kinds = append(kinds, m[0])
		if each != nil {
			each(m)
		}
		if m[0] == 'Z' {
			break
		}
	}
	return kinds
}

func startMosquitto(t *testing.T) *testserver.Server {
	t.Helper()
	path := requireProgram(t, "mosquitto", "mosquitto") //nolint:misspell // its name
	config := filepath.Join(t.TempDir(), "config")
	return startServer(t, path, func(port string) []string {
		require.NoError(t, os.WriteFile(config, []byte("listener "+port+" 127.0.0.1\nallow_anonymous true\nuser root\n"), 0o600))
		return []string{"-c", config}
	}, func(s *testserver.Server) error {
		c, err := client.Dial("tcp", s.Addr, &client.Options{Framing: mqttPackets})
		if err != nil {
			return err
		}
		defer c.Close()
		return mqttConnect(c, "ready?")
	})
}

// mqttPackets are a type in one byte and a length of one to four, seven bits in each.
var mqttPackets = client.LengthFunc{Func: varint, Max: 1 << 20}

// mqttPacket puts the length between.
func mqttPacket(kind byte, body string) []byte {
	p := []byte{kind}
	for n := len(body); ; n >>= 7 {
		if n < 0x80 {
			return append(append(p, byte(n)), body...)
		}
		p = append(p, byte(n)|0x80)
	}
}

func mqttConnect(c *client.Client, id string) error {
	const v311, clean, keepAlive = "\x00\x04MQTT\x04", "\x02", "\x00\x3c"
	if _, err := c.SendPacket(mqttPacket(0x10, v311+clean+keepAlive+mqttString(id))); err != nil {
		return err
	}
	p, err := c.RecvPacket()
	if err == nil && string(p) != "\x20\x02\x00\x00" {
		err = fmt.Errorf("CONNACK is %q", p)
	}
	return err
}

func mqttString(s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

func TestRecvPacket_MQTTLengthFunc(t *testing.T) {
	s := startMosquitto(t)
	c := dialServer(t, "tcp", s.Addr, &client.Options{Framing: mqttPackets})
	require.NoError(t, mqttConnect(c, "both"))
	_, err := c.SendPacket(mqttPacket(0x82, "\x00\x01"+mqttString("topic")+"\x00"))
	require.NoError(t, err)
	wantPacket(t, c, "\x90\x03\x00\x01\x00")
	sizes := []int{0, 1, 100, 120, 121, 127, 128, 16_000, 16_376, 16_377, 200_000} // on both sides of each length's length
	var all bytes.Buffer
	for _, n := range sizes {
		all.Write(mqttPacket(0x30, mqttString("topic")+strings.Repeat("x", n)))
	}
	sent := make(chan error, 1)
	go func() { _, err := c.Send(all.Bytes(), 0); sent <- err }()
	for _, n := range sizes {
		p, err := c.RecvPacket()
		require.NoError(t, err)
		require.True(t, bytes.Equal(mqttPacket(0x30, mqttString("topic")+strings.Repeat("x", n)), p), "%d bytes", n)
	}
	require.NoError(t, <-sent)
	_, err = c.SendPacket(mqttPacket(0xc0, ""))
	require.NoError(t, err)
	wantPacket(t, c, "\xd0\x00")
	receivesNoMore(t, c)
}

// varint is the length of MQTT: seven bits to each byte after the first.
func varint(p []byte) (int, error) {
	n := 0
	for i := 1; i < len(p); i++ {
		n |= int(p[i]&0x7f) << (7 * (i - 1))
		switch {
		case p[i]&0x80 == 0:
			return 1 + i + n, nil
		case i == 4:
			return 0, errors.New("a length of more than four bytes")
		}
	}
	return 0, nil
}
