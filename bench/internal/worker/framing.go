package worker

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/blocksock/client"
	"github.com/blocksock/client/bench/internal/sample"
)

// longest is more than any packet of the comparison.
const longest = 4 << 20

// packets takes packets from a stream that never ends: lines, or lengths in four bytes
// and what they count.
func packets(s *sample.Spec) (*sample.Sample, error) {
	next := map[string]func(*sample.Spec) (op, error){
		"bufio.Scanner, lines":  scannerLines,
		"bufio.Reader, lines":   readerLines,
		"client, lines":         clientLines,
		"bufio.Reader, lengths": readerLengths,
		"client, lengths":       clientLengths,
	}[s.Peer]
	if next == nil {
		return nil, fmt.Errorf("no such peer")
	}
	one, err := next(s)
	if err != nil {
		return nil, err
	}
	return measure(s, []op{batch(s, one)})
}

// batch has an operation done Batch times a turn.
func batch(s *sample.Spec, one op) op {
	return func() error {
		for range max(s.Batch, 1) {
			if err := one(); err != nil {
				return err
			}
		}
		return nil
	}
}

func scannerLines(s *sample.Spec) (op, error) {
	c, err := net.Dial(s.Network, s.Address)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(c)
	lines.Buffer(make([]byte, 64<<10), longest)
	return func() error {
		if !lines.Scan() {
			return fmt.Errorf("no line: %w", lines.Err())
		}
		return isLong(lines.Bytes(), s.Reply-1)
	}, nil
}

func readerLines(s *sample.Spec) (op, error) {
	c, err := net.Dial(s.Network, s.Address)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c, longest)
	return func() error {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		return isLong(line, s.Reply)
	}, nil
}

func clientLines(s *sample.Spec) (op, error) {
	return recvPackets(s, client.Delimiter{Delim: []byte("\n"), Max: longest})
}

func clientLengths(s *sample.Spec) (op, error) {
	return recvPackets(s, client.LengthPrefix{Encoding: 'N', BodyOffset: 4, Max: longest})
}

func recvPackets(s *sample.Spec, framing client.Framing) (op, error) {
	c, err := client.Dial(s.Network, s.Address, &client.Options{Framing: framing})
	if err != nil {
		return nil, err
	}
	return func() error {
		p, err := c.RecvPacket()
		if err != nil {
			return err
		}
		return isLong(p, s.Reply)
	}, nil
}

func readerLengths(s *sample.Spec) (op, error) {
	c, err := net.Dial(s.Network, s.Address)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c, 64<<10)
	body := make([]byte, s.Reply)
	return func() error {
		var header [4]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(header[:]))
		if err := isLong(body[4:], n); err != nil {
			return err
		}
		_, err := io.ReadFull(r, body[4:])
		return err
	}, nil
}

// isLong checks what came: a comparison with somebody who takes less is none.
func isLong(p []byte, n int) error {
	if len(p) != n {
		return fmt.Errorf("a packet of %d bytes and not %d", len(p), n)
	}
	return nil
}
