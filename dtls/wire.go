package dtls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blocksock/client"
	"golang.org/x/sys/unix"
)

// A wire is a connected UDP client as the net.PacketConn that pion/dtls needs. It passes one
// record at a time to pion, and drops records that cannot be the server's.
type wire struct {
	*client.Client
	mtu int // 0: what the kernel accepts

	// waits is set while a write may wait for room in the send buffer: in the handshake and in
	// Send. Otherwise pion sends alerts only. They are sent at once or not at all, so that no
	// Send and no Close waits for them.
	waits   atomic.Bool
	closing atomic.Bool // Close was called, which must not wait

	buf  []byte // the last datagram, as much as fits into pion's buffer
	rest []byte // the part of it that pion has not read

	mu      sync.Mutex
	secured bool     // the handshake is over
	early   [][]byte // protected records that arrived before
}

// maxEarly is the largest number of records in early. Further ones are dropped.
const maxEarly = 64

// secure is called at the end of the handshake.
func (w *wire) secure() {
	w.waits.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secured = true
	if len(w.early) > 0 {
		_ = w.SetReadDeadline(time.Unix(1, 0)) // so that the Read in receive returns
	}
}

// ReadFrom reads the next record into p, pion's buffer of 8,192 bytes. A record of the
// application that is longer is an error, which does not end the connection.
func (w *wire) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		record, err := w.next(p)
		if err != nil {
			return 0, nil, err
		}
		switch size := recordSize(record); {
		case size == len(record):
			return copy(p, record), w.RemoteAddr(), nil
		case size > len(p) && epoch(record) > 0:
			return 0, nil, fmt.Errorf("record of %d bytes was dropped: set the server to send at most %d bytes, header included: %w", size, len(p), unix.EMSGSIZE)
		}
	}
}

// next returns the next record for pion. It is cut if the datagram is.
func (w *wire) next(p []byte) ([]byte, error) {
	for {
		if record, ok := w.takeEarly(); ok {
			return record, nil
		}
		if len(w.rest) >= headerSize {
			n := min(recordSize(w.rest), len(w.rest))
			record := w.rest[:n]
			w.rest = w.rest[n:]
			if admissible(record, w.isSecured()) && !w.keepEarly(record) {
				return record, nil
			}
			continue
		}
		if err := w.receive(p); err != nil {
			return nil, err
		}
	}
}

// receive receives a datagram. It uses p as buffer.
func (w *wire) receive(p []byte) error {
	n, err := w.Read(p)
	var cut *client.TruncatedError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && w.isSecured():
		// secure has set the deadline. If pion has, it closes the socket next.
		return w.SetReadDeadline(time.Time{})
	case err != nil && !errors.As(err, &cut):
		return err
	}
	w.buf = append(w.buf[:0], p[:n]...)
	w.rest = w.buf
	return nil
}

func (w *wire) isSecured() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.secured
}

// keepEarly keeps a protected record of the application, or an alert, until the handshake is
// over. The server may send it directly after its Finished, and the network may reorder the
// two. pion would drop the record, and fail the handshake because of a close_notify.
func (w *wire) keepEarly(record []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if epoch(record) == 0 || record[0] == handshakeRecord {
		return false
	}
	if w.secured && len(w.early) == 0 { // else keep the order
		return false
	}
	if len(w.early) < maxEarly {
		w.early = append(w.early, bytes.Clone(record))
	}
	return true
}

func (w *wire) takeEarly() (record []byte, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.secured || len(w.early) == 0 {
		return nil, false
	}
	record, w.early = w.early[0], w.early[1:]
	return record, true
}

// WriteTo sends a datagram to the server. The socket is connected, so the address is not used.
func (w *wire) WriteTo(p []byte, _ net.Addr) (int, error) {
	switch {
	case w.mtu > 0 && len(p) > w.mtu:
		return 0, fmt.Errorf("datagram of %d bytes is longer than Options.MTU, %d: %w", len(p), w.mtu, unix.EMSGSIZE)
	case w.waits.Load() && !w.closing.Load():
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

// recordSize returns the size of the record that begins with a header.
func recordSize(header []byte) int {
	return headerSize + int(binary.BigEndian.Uint16(header[lengthAt:]))
}

func epoch(record []byte) uint16 { return binary.BigEndian.Uint16(record[epochAt:]) }

// admissible reports whether a record can be a part of the connection. RFC 6347, 4.1.2.7, has
// invalid records discarded.
//
// Records of epoch 0 are not protected, so after the handshake they are dropped: anybody could
// have sent them, and pion answers some with an alert that ends the connection. Epochs above 1
// are for renegotiation. The type tls12_cid (RFC 9146) is for clients that ask for an
// identifier.
func admissible(record []byte, secured bool) bool {
	length := binary.BigEndian.Uint16(record[lengthAt:])
	switch epoch(record) {
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
