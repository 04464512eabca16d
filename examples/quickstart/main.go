// Quickstart shows the library at work.
//
//	go run ./examples/quickstart
//
// needs nothing installed: it starts little servers in its own process and talks
// to them over every network, also to some that fail.
//
//	go run ./examples/quickstart tcp 127.0.0.1:6379 'PING\r\n'
//
// talks to a real server: it sends the message and prints what comes back.
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
escapes in the message are those of a Go string: \r \n \t \x00 \\`)

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
	return fmt.Errorf("three arguments or none\n%w", errUsage)
}

// talk sends one message to a server and prints what comes back.
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
	begin := time.Now()
	if _, err := c.Send(message, 0); err != nil {
		return err
	}
	show(out, "sent", message)

	answer := make([]byte, 64<<10) // no UDP datagram is longer
	n, err := c.Recv(answer, 0)
	took := time.Since(begin)
	// Where an answer ends on a stream, only its protocol tells. This program
	// speaks none and waits for a pause.
	for err == nil && isStream(network) && n < len(answer) {
		if err = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return err
		}
		var more int
		more, err = c.Recv(answer[n:], 0)
		n += more
	}
	show(out, "received after "+ms(took), answer[:n])
	switch {
	case errors.Is(err, io.EOF):
		fmt.Fprintln(out, "then the server closed the connection")
	case err == nil && n == len(answer):
		fmt.Fprintln(out, "and there was no room for more")
	case n == 0 || !errors.Is(err, os.ErrDeadlineExceeded): // after bytes, it is the pause
		return err
	}
	return nil
}

// show prints bytes line by line, quoted: raw, they could command the terminal.
func show(out io.Writer, what string, p []byte) {
	fmt.Fprintf(out, "%s: %d bytes\n", what, len(p))
	for line := range bytes.Lines(p) {
		fmt.Fprintf(out, "    %q\n", line)
	}
}

// unescape is strconv.Unquote for text without quotes around it, but maybe in it.
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
			p = utf8.AppendRune(p, r) // \u00e9, a character
		} else {
			p = append(p, byte(r)) // \xe9, a byte
		}
	}
	return p, nil
}

func isStream(network string) bool {
	return network == "unix" || strings.HasPrefix(network, "tcp")
}

// ms is a duration in ASCII, which time.Duration's own µs is not.
func ms(d time.Duration) string { return fmt.Sprintf("%.3f ms", d.Seconds()*1000) }
