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

// maxPacket exceeds every packet of the comparison.
const maxPacket = 4 << 20

// packets receives packets from an endless stream: lines, or bodies with a length prefix of four
// bytes.
func packets(s *sample.Spec) (*sample.Sample, error) {
	next := map[string]func(*sample.Spec) (op, error){
		"bufio.Scanner, lines":     scannerLines,
		"bufio.Reader, lines":      readerLines,
		"client, lines":            clientLines,
		"client, Packets, lines":   clientPacketsLines,
		"bufio.Reader, lengths":    readerLengths,
		"client, lengths":          clientLengths,
		"client, Packets, lengths": clientPacketsLengths,
	}[s.Peer]
	if next == nil {
		return nil, fmt.Errorf("unknown peer %q", s.Peer)
	}
	one, err := next(s)
	if err != nil {
		return nil, err
	}
	return measure(s, []op{one})
}

// batch repeats an operation Batch times.
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
	lines.Buffer(make([]byte, 64<<10), maxPacket)
	return batch(s, func() error {
		if !lines.Scan() {
			return fmt.Errorf("the stream ended: %w", lines.Err())
		}
		return checkLen(lines.Bytes(), s.Reply-1)
	}), nil
}

func readerLines(s *sample.Spec) (op, error) {
	c, err := net.Dial(s.Network, s.Address)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c, maxPacket)
	return batch(s, func() error {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		return checkLen(line, s.Reply)
	}), nil
}

var (
	lines   = client.Delimiter{Delim: []byte("\n"), Max: maxPacket}
	lengths = client.LengthPrefix{Encoding: client.Uint32BE, BodyOffset: 4, Max: maxPacket}
)

func clientLines(s *sample.Spec) (op, error)          { return recvPackets(s, lines) }
func clientLengths(s *sample.Spec) (op, error)        { return recvPackets(s, lengths) }
func clientPacketsLines(s *sample.Spec) (op, error)   { return rangePackets(s, lines) }
func clientPacketsLengths(s *sample.Spec) (op, error) { return rangePackets(s, lengths) }

func recvPackets(s *sample.Spec, framing client.Framing) (op, error) {
	c, err := client.Dial(s.Network, s.Address, &client.Options{Framing: framing})
	if err != nil {
		return nil, err
	}
	return batch(s, func() error {
		p, err := c.RecvPacket()
		if err != nil {
			return err
		}
		return checkLen(p, s.Reply)
	}), nil
}

func rangePackets(s *sample.Spec, framing client.Framing) (op, error) {
	c, err := client.Dial(s.Network, s.Address, &client.Options{Framing: framing})
	if err != nil {
		return nil, err
	}
	return func() error {
		left := max(s.Batch, 1)
		for p, err := range c.Packets() {
			if err == nil {
				err = checkLen(p, s.Reply)
			}
			if left--; err != nil || left == 0 {
				return err
			}
		}
		return io.ErrUnexpectedEOF
	}, nil
}

func readerLengths(s *sample.Spec) (op, error) {
	c, err := net.Dial(s.Network, s.Address)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c, 64<<10)
	header, body := make([]byte, 4), make([]byte, s.Reply)
	return batch(s, func() error {
		if _, err := io.ReadFull(r, header); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(header))
		if err := checkLen(body[4:], n); err != nil {
			return err
		}
		_, err := io.ReadFull(r, body[4:])
		return err
	}), nil
}

// checkLen checks the length of a packet, so that no peer saves work by returning less.
func checkLen(p []byte, n int) error {
	if len(p) != n {
		return fmt.Errorf("packet has %d bytes, want %d", len(p), n)
	}
	return nil
}
