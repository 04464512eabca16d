package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/blocksock/client"
)

// A talk is a message that is sent to a server, and the reply to it, once or several times.
type talk struct {
	network, address string
	secure           bool // TLS
	caFile           string
	proxy            string
	timeout, pause   time.Duration
	repeat           int
	message          []byte
}

func (t *talk) run(out io.Writer) error {
	opts := &client.Options{Timeout: t.timeout, Proxy: t.proxy}
	if t.secure {
		opts.TLS = &client.TLSOptions{CAFile: t.caFile}
	}
	start := time.Now()
	c, err := client.Dial(t.network, t.address, opts)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(out, "connected to %v after %s\n", c.RemoteAddr(), ms(time.Since(start)))

	var times []time.Duration
	for range t.repeat {
		took, err := t.exchange(c, out)
		switch {
		case errors.Is(err, io.EOF):
			fmt.Fprintln(out, "the server closed the connection")
			if sent := len(times) + 1; sent < t.repeat {
				return fmt.Errorf("only %d of %d messages were sent", sent, t.repeat)
			}
			return nil
		case err != nil:
			return err
		}
		times = append(times, took)
	}
	if slices.Sort(times); len(times) > 1 {
		fmt.Fprintf(out, "%d replies: the fastest after %s, the median %s, the slowest %s\n",
			len(times), ms(times[0]), ms(times[len(times)/2]), ms(times[len(times)-1]))
	}
	return nil
}

// exchange sends the message, prints the reply, and returns how long its first bytes took.
func (t *talk) exchange(c *client.Client, out io.Writer) (took time.Duration, err error) {
	if err := c.SetReadDeadline(time.Time{}); err != nil { // the last pause may have set one
		return 0, err
	}
	start := time.Now()
	if _, err := c.Send(t.message, 0); err != nil {
		return 0, err
	}
	show(out, "sent", t.message)

	reply := make([]byte, 64<<10) // no UDP datagram is longer
	n, err := c.Recv(reply, 0)
	took = time.Since(start)
	// A byte stream has no message boundaries: only a protocol tells where a reply ends.
	// This program knows no protocol, and takes a pause for the end.
	for err == nil && isStream(t.network) && n < len(reply) {
		if err = c.SetReadDeadline(time.Now().Add(t.pause)); err != nil {
			return 0, err
		}
		var more int
		more, err = c.Recv(reply[n:], 0)
		n += more
	}
	if n > 0 || err == nil || errors.Is(err, io.EOF) {
		show(out, "received after "+ms(took), reply[:n])
	}
	switch {
	case n > 0 && errors.Is(err, os.ErrDeadlineExceeded): // it is the pause
		return took, nil
	case err == nil && n == len(reply):
		fmt.Fprintln(out, "the buffer is full; there may be more")
	}
	return took, err
}

func isStream(network string) bool {
	return network == "unix" || strings.HasPrefix(network, "tcp")
}

// show prints text line by line, quoted, because raw bytes could be control sequences for the
// terminal. What is no text is printed in hexadecimal.
func show(out io.Writer, title string, p []byte) {
	fmt.Fprintf(out, "%s: %d bytes\n", title, len(p))
	if !isText(p) {
		for line := range strings.Lines(hex.Dump(p)) {
			fmt.Fprintf(out, "    %s", line)
		}
		return
	}
	for line := range bytes.Lines(p) {
		fmt.Fprintf(out, "    %q\n", line)
	}
}

// isText reports whether a person can read p: UTF-8 whose control characters are white space or
// the escape character, which colours have.
func isText(p []byte) bool {
	return utf8.Valid(p) && bytes.IndexFunc(p, func(r rune) bool {
		return unicode.IsControl(r) && !unicode.IsSpace(r) && r != '\x1b'
	}) < 0
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
			return nil, &usageError{fmt.Sprintf("malformed escape in the message: %#q", s)}
		}
		if s = rest; multibyte {
			p = utf8.AppendRune(p, r) // \u00e9 is a character
		} else {
			p = append(p, byte(r)) // \xe9 is a byte
		}
	}
	return p, nil
}

// ms formats a duration in ASCII. time.Duration would write µs.
func ms(d time.Duration) string { return fmt.Sprintf("%.3f ms", d.Seconds()*1000) }
