// Quickstart shows what the library does.
//
//	go run ./examples/quickstart
//
// needs nothing installed. It starts small servers in its own process and connects to them
// over each network. Some of the servers fail on purpose.
//
//	go run ./examples/quickstart tcp 127.0.0.1:6379 'PING\r\n'
//
// connects to a real server, sends the message and prints the reply.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/blocksock/client"
)

var errUsage = errors.New(`usage: quickstart [NETWORK ADDRESS MESSAGE]
networks: tcp tcp4 tcp6 udp udp4 udp6 unix unixgram
escapes in MESSAGE are those of a Go string: \r \n \t \x00 \\`)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	switch len(args) {
	case 0:
		return demo(out)
	case 3:
		return talk(out, args[0], args[1], args[2])
	}
	return fmt.Errorf("want three arguments or none\n%w", errUsage)
}

// talk sends one message to a server and prints the reply.
func talk(out io.Writer, network, address, escaped string) error {
	message, err := unescape(escaped)
	if err != nil {
		return err
	}
	c, err := client.Dial(network, address, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	start := time.Now()
	if _, err := c.Send(message, 0); err != nil {
		return err
	}
	show(out, "sent", message)

	reply := make([]byte, 64<<10) // no UDP datagram is longer
	n, err := c.Recv(reply, 0)
	took := time.Since(start)
	// A byte stream has no message boundaries: only a protocol tells where a reply ends.
	// This program knows no protocol, and takes a pause for the end.
	for err == nil && isStream(network) && n < len(reply) {
		if err = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return err
		}
		var more int
		more, err = c.Recv(reply[n:], 0)
		n += more
	}
	show(out, "received after "+ms(took), reply[:n])
	switch {
	case errors.Is(err, io.EOF):
		fmt.Fprintln(out, "the server closed the connection")
	case err == nil && n == len(reply):
		fmt.Fprintln(out, "the buffer is full; there may be more")
	case n == 0 || !errors.Is(err, os.ErrDeadlineExceeded): // after some bytes, the timeout is the pause
		return err
	}
	return nil
}

// show prints bytes line by line. They are quoted, because raw bytes could be control
// sequences for the terminal.
func show(out io.Writer, title string, p []byte) {
	fmt.Fprintf(out, "%s: %d bytes\n", title, len(p))
	for line := range bytes.Lines(p) {
		fmt.Fprintf(out, "    %q\n", line)
	}
}

// unescape is strconv.Unquote for a string without surrounding quotes.
func unescape(s string) ([]byte, error) {
	var p []byte
	for s != "" {
		if s[0] != '\\' {
			p, s = append(p, s[0]), s[1:]
			continue
		}
		r, multibyte, rest, err := strconv.UnquoteChar(s, '"')
		if err != nil {
			return nil, fmt.Errorf("malformed escape: %#q\n%w", s, errUsage)
		}
		if s = rest; multibyte {
			p = utf8.AppendRune(p, r) // \u00e9 is a character
		} else {
			p = append(p, byte(r)) // \xe9 is a byte
		}
	}
	return p, nil
}

func isStream(network string) bool {
	return network == "unix" || strings.HasPrefix(network, "tcp")
}

// ms formats a duration in ASCII. time.Duration would write µs.
func ms(d time.Duration) string { return fmt.Sprintf("%.3f ms", d.Seconds()*1000) }
