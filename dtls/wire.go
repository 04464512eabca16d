package dtls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/blocksock/client"
	"golang.org/x/sys/unix"
)

// A wire is a connected UDP client as pion/dtls takes a socket. It gives pion one record
// at a time, and no record that only somebody else than the server can have sent.
type wire struct {
	*client.Client
	mtu int // 0: what the kernel takes

	// secured is set when the handshake is over.
	secured atomic.Bool

	// waits is set while a write may wait for room: in the handshake, and in a Send. What
	// pion sends by itself later, an alert, goes out at once or not at all, so that no Send
	// and no Close waits behind it.
	waits atomic.Bool

	buf  []byte // the last datagram, as much as fitted into pion's buffer
	rest []byte // what is left of it to read
}

// ReadFrom reads the next record into p, pion's buffer of 8,192 bytes. It is an error if a
// record of the connection is longer. It does not end the connection.
func (w *wire) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if len(w.rest) == 0 {
			n, err := w.Read(p)
			var cut *client.TruncatedError
			if err != nil && !errors.As(err, &cut) {
				return 0, nil, err
			}
			w.buf = append(w.buf[:0], p[:n]...)
			w.rest = w.buf
		}
		record, size := nextRecord(w.rest)
		w.rest = w.rest[len(record):]
		switch secured := w.secured.Load(); {
		case len(record) == 0: // none, or a part of one
			w.rest = nil
		case !admissible(record, secured):
		case len(record) == size:
			return copy(p, record), w.RemoteAddr(), nil
		case secured && size > len(p):
			return 0, nil, fmt.Errorf("record of %d bytes is lost: the server must send no more than %d, header included: %w", size, len(p), unix.EMSGSIZE)
		}
	}
}

// WriteTo sends a datagram to the peer, whatever its address: the socket is connected.
func (w *wire) WriteTo(p []byte, _ net.Addr) (int, error) {
	switch {
	case w.mtu > 0 && len(p) > w.mtu:
		return 0, fmt.Errorf("datagram of %d bytes is longer than Options.MTU, %d: %w", len(p), w.mtu, unix.EMSGSIZE)
	case w.waits.Load():
		return w.Write(p)
	}
	return w.Send(p, client.DontWait)
}

// The header of a record (RFC 6347, 4.1): type, version, epoch, sequence number, length.
const (
	headerSize = 13
	epochAt    = 3
	lengthAt   = 11
)

// Types of records (RFC 5246, A.1).
const (
	changeCipherSpec = 20
	alertRecord      = 21
	handshakeRecord  = 22
	applicationData  = 23
)

// nextRecord returns the first record of a datagram and its size. The record is shorter
// than its size if the datagram is, and empty if there is not even a whole header.
func nextRecord(datagram []byte) (record []byte, size int) {
	if len(datagram) < headerSize {
		return nil, 0
	}
	size = headerSize + int(binary.BigEndian.Uint16(datagram[lengthAt:]))
	return datagram[:min(size, len(datagram))], size
}

// admissible reports whether a record can be a part of the connection. Records of epoch 0
// are not protected: after the handshake everybody could send them in the server's name, and pion
// answers some with an alert that ends the connection. RFC 6347, 4.1.2.7, has invalid records
// discarded. Epochs above 1 belong to renegotiation, and tls12_cid (RFC 9146) to a client that
// asks for an identifier.
func admissible(record []byte, secured bool) bool {
	length := binary.BigEndian.Uint16(record[lengthAt:])
	switch binary.BigEndian.Uint16(record[epochAt:]) {
	case 0:
		switch record[0] {
		case handshakeRecord:
			return !secured && length > 0
		case alertRecord:
			return !secured && length == 2
		case changeCipherSpec:
			return !secured && length == 1
		}
	case 1:
		return record[0] >= alertRecord && record[0] <= applicationData && length > 0
	}
	return false
}
