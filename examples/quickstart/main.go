// Quickstart shows what the library does, and talks to servers.
//
//	go run ./examples/quickstart
//
// needs nothing installed. It starts small servers in its own process and connects to them
// over each network. Some of the servers fail on purpose.
//
//	go run ./examples/quickstart tcp 127.0.0.1:6379 'PING\r\n'
//	go run ./examples/quickstart -repeat 10 tls example.org:443 'HEAD / HTTP/1.1\r\nHost: example.org\r\n\r\n'
//
// connects to a real server, sends the message and prints the reply. -h lists the flags.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/blocksock/client"
)

// A usageError says what is wrong with the arguments.
type usageError struct{ reason string }

func (e *usageError) Error() string { return e.reason + "\nquickstart -h lists what it takes" }

func main() {
	err := run(os.Args[1:], os.Stdout)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "quickstart:", err)
	if errors.As(err, new(*usageError)) {
		os.Exit(2)
	}
	os.Exit(1)
}

const usage = `usage: quickstart                                     a demonstration
       quickstart [flags] NETWORK ADDRESS MESSAGE     talk to a server

NETWORK is one of
  tcp tcp4 tcp6    ADDRESS is host:port; the 4 and 6 choose IPv4 or IPv6
  tls tls4 tls6    the same, with TLS
  udp udp4 udp6    the same, with datagrams
  unix unixgram    ADDRESS is a path, or @name in Linux's abstract namespace
MESSAGE is sent as it is. Its escapes are those of a Go string: \r \n \t \x00 \\

flags:
`

func run(args []string, out io.Writer) error {
	var t talk
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error is printed once, by main
	flags.DurationVar(&t.timeout, "timeout", client.DefaultTimeout, "the `limit` of the dial, and of each call")
	flags.DurationVar(&t.pause, "pause", 300*time.Millisecond, "on a byte stream, how long a silence ends a reply")
	flags.IntVar(&t.repeat, "repeat", 1, "send the message `n` times, each after the reply to the last")
	flags.StringVar(&t.proxy, "proxy", "", "a proxy's `URL`: socks5://host:port, socks5h:// or http://")
	flags.StringVar(&t.caFile, "ca", "", "for TLS, a PEM `file` with the authorities to trust instead of the system's")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(out, usage)
		flags.SetOutput(out)
		flags.PrintDefaults()
		return err
	case err != nil:
		return &usageError{err.Error()}
	case flags.NArg() == 0 && flags.NFlag() == 0:
		return demo(out)
	case flags.NArg() != 3:
		return &usageError{fmt.Sprintf("%d arguments: it takes a network, an address and a message, or none", flags.NArg())}
	case t.timeout <= 0 || t.pause <= 0 || t.repeat < 1:
		return &usageError{"-timeout, -pause and -repeat have to be positive"}
	}
	t.network = flags.Arg(0)
	switch t.network {
	case "tls", "tls4", "tls6":
		t.secure, t.network = true, strings.Replace(t.network, "tls", "tcp", 1)
	}
	if t.caFile != "" && !t.secure {
		return &usageError{"-ca is about TLS: the network has to be tls"}
	}
	t.address = flags.Arg(1)
	if t.message, err = unescape(flags.Arg(2)); err != nil {
		return err
	}
	return t.run(out)
}
