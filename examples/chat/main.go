// Chat is a chat client for a terminal, and with -listen a server for it. Lines that are typed
// go to everybody else in the room.
//
//	go run ./examples/chat -listen 127.0.0.1:7000
//	go run ./examples/chat -connect 127.0.0.1:7000 -name Ada
//
// With -tls the server makes a certificate, writes it to the file that -cert names, and the
// clients accept that one:
//
//	go run ./examples/chat -listen 127.0.0.1:7000 -tls -cert room.pem
//	go run ./examples/chat -connect 127.0.0.1:7000 -tls -cert room.pem -name Ada
//
// With both -listen and -connect it is a server and a client in one. The end of the input ends
// the client, after everything that was typed has been sent.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/blocksock/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("chat", flag.ContinueOnError)
	address := flags.String("connect", "", "the address of a room to enter")
	listen := flags.String("listen", "", "the address to open a room at")
	name := flags.String("name", "somebody", "your name in the room")
	secure := flags.Bool("tls", false, "use TLS")
	cert := flags.String("cert", "", "with -tls: the file of the server's certificate")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unknown argument %q: chat takes flags only", flags.Arg(0))
	case *address == "" && *listen == "":
		return errors.New("no room: set -connect or -listen")
	case *secure && *cert == "":
		return errors.New("no certificate: set -cert")
	}
	if *listen != "" {
		ln, err := net.Listen("tcp", *listen)
		if err != nil {
			return err
		}
		if *secure {
			if ln, err = withTLS(ln, *cert); err != nil {
				return err
			}
		}
		defer ln.Close()
		fmt.Fprintln(out, "the room is open at", ln.Addr())
		go serve(ln)
	}
	if *address == "" {
		<-ctx.Done()
		return nil
	}
	opts := &client.Options{Framing: client.Delimiter{Delim: []byte("\n"), Max: maxLine}}
	if *secure {
		opts.TLS = &client.TLSOptions{CAFile: *cert, ServerName: serverName}
	}
	return chat(ctx, *address, *name, opts, in, out)
}

// chat sends what is typed and prints what others have typed.
func chat(ctx context.Context, address, name string, opts *client.Options, in io.Reader, out io.Writer) error {
	result, input, room := make(chan error, 1), make(chan error, 1), make(chan struct{}, 1)
	a, err := client.DialAsync(ctx, "tcp", address, opts, client.AsyncConfig{
		OnConnect: func(a *client.AsyncClient) {
			fmt.Fprintln(out, "you are in the room")
			go func() {
				err := typed(a, name, in, room)
				input <- err
				if err != nil {
					_ = a.Close()
					return
				}
				// The server answers with the end of the other direction when it has received everything.
				_ = a.CloseWrite()
			}()
		},
		OnReceive: func(_ *client.AsyncClient, line []byte) { _, _ = out.Write(bytes.Map(printable, line)) },
		OnBufferEmpty: func(*client.AsyncClient) {
			select {
			case room <- struct{}{}:
			default:
			}
		},
		OnError: func(_ *client.AsyncClient, err error) { result <- err },
		OnClose: func(_ *client.AsyncClient, err error) { result <- err },
	})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = a.Close() })()
	err = <-result
	select {
	case inputErr := <-input:
		wasClosed := errors.Is(inputErr, net.ErrClosed) // before everything was sent: err says why
		if !wasClosed && (err == nil || inputErr == nil && errors.Is(err, io.EOF)) {
			return inputErr
		}
	default:
	}
	if errors.Is(err, io.EOF) {
		fmt.Fprintln(out, "the room is closed")
		return nil
	}
	return err
}

// typed sends lines until the input ends. It waits on room while too much is not sent yet.
func typed(a *client.AsyncClient, name string, in io.Reader, room <-chan struct{}) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		for a.IsFull() {
			select {
			case <-room:
			case <-a.Done():
				return net.ErrClosed
			}
		}
		if err := a.SendPacket([]byte(name + ": " + lines.Text())); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read a line of the input: %w", err)
	}
	return nil
}

// printable replaces control characters: from others they could be sequences for the terminal.
func printable(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return utf8.RuneError
	}
	return r
}
