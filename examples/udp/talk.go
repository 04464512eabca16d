package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/dtls"
)

// talk sends each line of in to a server over DTLS, as one record, and prints the records that it
// receives, until the server closes the connection or wait has passed since the last line.
func talk(ctx context.Context, address string, security *client.TLSOptions, wait time.Duration, in io.Reader, out io.Writer) error {
	// Until the input ends there is no limit: a person may think for as long as they like.
	c, err := dtls.Dial(ctx, "udp", address, &client.Options{RecvTimeout: -1, TLS: security}, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()

	sent := make(chan error, 1)
	go func() {
		sent <- sendLines(c, in)
		_ = c.SetReadDeadline(time.Now().Add(wait)) // it fails if the connection is closed, which ends Recv, too
	}()
	for record := make([]byte, 16<<10); ; { // no record is longer
		n, err := c.Recv(record, 0)
		switch {
		case err == nil:
			// Quoted, because raw bytes could be control sequences for the terminal.
			if _, err := fmt.Fprintf(out, "%q\n", record[:n]); err != nil {
				return err
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return <-sent
		case errors.Is(err, io.EOF):
			_, err := fmt.Fprintln(out, "the server closed the connection")
			return err
		default:
			return err
		}
	}
}

// sendLines sends each line with its line feed, and does not send an empty record: it would end
// the connection at openssl s_server.
func sendLines(c *dtls.Conn, in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if _, err := c.Send(line, 0); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
