package client

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// A Framing tells where on a stream one packet ends and the next begins. It is a
// LengthPrefix, a Delimiter or a LengthFunc.
type Framing interface {
	framer() (framer, error)
}

// DefaultMaxPacket is the size in bytes that a packet may have if a Framing's Max
// is zero: 2 MiB.
const DefaultMaxPacket = 2 << 20

// A LengthPrefix is the framing of packets that say how long they are. The length
// is Offset bytes after the packet's beginning, and counts the bytes from
// BodyOffset on: the packet is BodyOffset plus the length long. With BodyOffset
// behind the length that is the length of a body; with less, some or all of the
// header is a part of it. It has to be at least as long as the header up to the
// end of the length.
//
// Type is how the length is encoded, by the letters of PHP's pack: c and C are
// one byte, signed and unsigned; s and S two bytes, l and L four, i and I four
// and q and Q eight, in this machine's order; n, N and J two, four and eight,
// unsigned and big-endian; v, V and P the same, little-endian. Zero is N. A
// length below zero is malformed.
type LengthPrefix struct {
	Type       byte
	Offset     int
	BodyOffset int
	Max        int // longest packet in bytes, header included; zero is DefaultMaxPacket
}

// A Delimiter is the framing of packets that end with EOF, which is a part of them.
type Delimiter struct {
	EOF []byte
	Max int // longest packet in bytes, EOF included; zero is DefaultMaxPacket
}

// A LengthFunc is a framing by a function of the caller's. It is given what has
// been received from the packet's beginning on, which may be a part of it or go
// beyond it, and gives the packet's length, or 0 if it has to see more. Anything
// below zero, and an error, mean that this is no packet.
type LengthFunc struct {
	Func func(p []byte) (int, error)
	Max  int // longest packet in bytes; zero is DefaultMaxPacket
}

// A PacketError is about bytes that are no packet by the client's Framing. The
// client gives no further packets: where the next one would begin nobody knows.
type PacketError struct {
	Reason string
	Length int64  // of the packet, as far as it is known; what does not fit is math.MaxInt64
	Max    int    // what it may be
	Head   []byte // the first bytes of it, 32 at most
	Err    error  // of LengthFunc.Func
}

func (e *PacketError) Error() string {
	return fmt.Sprintf("malformed packet: %s (it begins with %q)", e.Reason, e.Head)
}

func (e *PacketError) Unwrap() error { return e.Err }

// A framer is a Framing that has been checked.
type framer interface {
	// size gives the length of the packet that p begins with, or 0 if more has to
	// be seen. Of p, seen bytes were there when it was asked before. An error is
	// a *PacketError to which Max and Head are still to be added.
	size(p []byte, seen int) (int, error)

	// around gives what a packet of the caller's lacks, and where it belongs. It
	// may be in scratch, which has 8 bytes.
	around(p, scratch []byte) (lacks []byte, at int, err error)

	longest() int
}

func badFraming(reason string) error {
	return &OptionError{Option: "Framing", Reason: reason}
}

func checkMax(limit int) (int, error) {
	if limit < 0 {
		return 0, badFraming(fmt.Sprintf("Max is %d", limit))
	}
	return cmp.Or(limit, DefaultMaxPacket), nil
}

// tooLong is about a packet of a length that is known, or -1.
func tooLong(length uint64, limit int) error {
	return &PacketError{
		Reason: fmt.Sprintf("its length is %d, and Max is %d", length, limit),
		Length: int64(min(length, math.MaxInt64)),
	}
}

type lengthPrefix struct {
	LengthPrefix
	width  int
	signed bool
	order  binary.ByteOrder
}

func (l LengthPrefix) framer() (framer, error) {
	limit, err := checkMax(l.Max)
	if err != nil {
		return nil, err
	}
	l.Max = limit
	l.Type = cmp.Or(l.Type, 'N')
	f := &lengthPrefix{LengthPrefix: l, order: binary.NativeEndian}
	switch l.Type {
	case 'c', 'C':
		f.width = 1
	case 's', 'S', 'n', 'v':
		f.width = 2
	case 'l', 'L', 'i', 'I', 'N', 'V':
		f.width = 4
	case 'q', 'Q', 'J', 'P':
		f.width = 8
	default:
		return nil, badFraming(fmt.Sprintf("%q is no type of a length", l.Type))
	}
	switch l.Type {
	case 'c', 's', 'l', 'i', 'q':
		f.signed = true
	case 'n', 'N', 'J':
		f.order = binary.BigEndian
	case 'v', 'V', 'P':
		f.order = binary.LittleEndian
	}
	switch {
	case l.Offset < 0 || l.BodyOffset < 0:
		return nil, badFraming(fmt.Sprintf("Offset is %d and BodyOffset %d", l.Offset, l.BodyOffset))
	case l.Offset > l.Max-f.width || l.BodyOffset > l.Max:
		return nil, badFraming(fmt.Sprintf("Offset is %d and BodyOffset %d, and Max, for all of a packet, %d", l.Offset, l.BodyOffset, l.Max))
	}
	return f, nil
}

func (f *lengthPrefix) longest() int { return f.Max }

func (f *lengthPrefix) size(p []byte, _ int) (int, error) {
	header := f.Offset + f.width
	if len(p) < header {
		return 0, nil
	}
	length := f.get(p[f.Offset:])
	if f.signed {
		// Shifted up and down again, the sign of a narrow number is a wide one's.
		unused := 64 - 8*f.width
		if n := int64(length<<unused) >> unused; n < 0 {
			return 0, &PacketError{Reason: fmt.Sprintf("its length is %d", n), Length: n}
		}
	}
	switch {
	case length > uint64(f.Max-f.BodyOffset):
		sum := length + uint64(f.BodyOffset)
		if sum < length {
			sum = math.MaxUint64
		}
		return 0, tooLong(sum, f.Max)
	case int(length)+f.BodyOffset < header:
		return 0, &PacketError{
			Reason: fmt.Sprintf("its length is %d, and its header alone has %d bytes", int(length)+f.BodyOffset, header),
			Length: int64(length) + int64(f.BodyOffset),
		}
	}
	return int(length) + f.BodyOffset, nil
}

func (f *lengthPrefix) get(p []byte) uint64 {
	switch f.width {
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(f.order.Uint16(p))
	case 4:
		return uint64(f.order.Uint32(p))
	}
	return f.order.Uint64(p)
}

func (f *lengthPrefix) around(p, scratch []byte) (lacks []byte, at int, err error) {
	total := len(p) + f.width
	length := total - f.BodyOffset
	bits := 8 * f.width
	if f.signed {
		bits--
	}
	switch {
	case len(p) < f.Offset, length < 0:
		return nil, 0, &PacketError{Reason: fmt.Sprintf("with its length it has %d bytes, less than Offset and BodyOffset have it", total), Length: int64(total)}
	case total > f.Max:
		return nil, 0, tooLong(uint64(total), f.Max)
	case bits < 63 && length>>bits != 0:
		return nil, 0, &PacketError{Reason: fmt.Sprintf("a length of %d does not fit into type %q", length, f.Type), Length: int64(total)}
	}
	lacks = scratch[:f.width]
	switch f.width {
	case 1:
		lacks[0] = byte(length)
	case 2:
		f.order.PutUint16(lacks, uint16(length))
	case 4:
		f.order.PutUint32(lacks, uint32(length))
	default:
		f.order.PutUint64(lacks, uint64(length))
	}
	return lacks, f.Offset, nil
}

type delimiter struct{ Delimiter }

func (d Delimiter) framer() (framer, error) {
	limit, err := checkMax(d.Max)
	switch {
	case err != nil:
		return nil, err
	case len(d.EOF) == 0:
		return nil, badFraming("EOF is empty")
	case len(d.EOF) > limit:
		return nil, badFraming(fmt.Sprintf("EOF has %d bytes, and Max is %d", len(d.EOF), limit))
	}
	return &delimiter{Delimiter{EOF: slices.Clone(d.EOF), Max: limit}}, nil
}

func (f *delimiter) longest() int { return f.Max }

func (f *delimiter) size(p []byte, seen int) (int, error) {
	from := max(seen-len(f.EOF)+1, 0) // what was seen may end with a part of EOF
	if i := bytes.Index(p[from:min(len(p), f.Max)], f.EOF); i >= 0 {
		return from + i + len(f.EOF), nil
	}
	if len(p) >= f.Max {
		return 0, &PacketError{Reason: fmt.Sprintf("%d bytes have come without %q, and Max is %d", len(p), f.EOF, f.Max), Length: int64(len(p))}
	}
	return 0, nil
}

func (f *delimiter) around(p, _ []byte) (lacks []byte, at int, err error) {
	total := len(p) + len(f.EOF)
	switch {
	case total > f.Max:
		return nil, 0, tooLong(uint64(total), f.Max)
	case bytes.Contains(p, f.EOF), f.begins(p):
		return nil, 0, &PacketError{Reason: fmt.Sprintf("%q is in its midst, and would end it there", f.EOF), Length: int64(total)}
	}
	return f.EOF, len(p), nil
}

// begins reports whether p ends with a part of EOF that makes, with EOF behind it,
// one that comes sooner.
func (f *delimiter) begins(p []byte) bool {
	for k := 1; k < len(f.EOF) && k <= len(p); k++ {
		if bytes.HasSuffix(p, f.EOF[:k]) && bytes.HasPrefix(f.EOF, f.EOF[k:]) {
			return true
		}
	}
	return false
}

type lengthFunc struct{ LengthFunc }

func (l LengthFunc) framer() (framer, error) {
	limit, err := checkMax(l.Max)
	if err != nil {
		return nil, err
	}
	if l.Func == nil {
		return nil, badFraming("Func is nil")
	}
	return &lengthFunc{LengthFunc{Func: l.Func, Max: limit}}, nil
}

func (f *lengthFunc) longest() int { return f.Max }

func (f *lengthFunc) size(p []byte, _ int) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.Func(p)
	switch {
	case err != nil:
		return 0, &PacketError{Reason: err.Error(), Length: int64(n), Err: err}
	case n < 0:
		return 0, &PacketError{Reason: fmt.Sprintf("its length is %d", n), Length: int64(n)}
	case n > f.Max:
		return 0, tooLong(uint64(n), f.Max)
	case n == 0 && len(p) >= f.Max:
		return 0, &PacketError{Reason: fmt.Sprintf("%d bytes are not enough to tell how long it is, and Max is %d", len(p), f.Max), Length: int64(len(p))}
	}
	return n, nil
}

func (f *lengthFunc) around(p, _ []byte) (lacks []byte, at int, err error) {
	switch n, err := f.size(p, 0); {
	case err != nil:
		return nil, 0, err
	case n != len(p):
		return nil, 0, &PacketError{Reason: fmt.Sprintf("it has %d bytes, and its length is %d", len(p), n), Length: int64(n)}
	}
	return nil, len(p), nil
}

var errNoFraming = badFraming("is not set")

var errTorn = errors.New("a packet was sent in part, and the peer would take another for the rest of it")

// packets gives what a client of a network needs for Framing; nil where there is none.
func (o *Options) packets(network string) (*packets, error) {
	if o.Framing == nil {
		return nil, nil
	}
	if n, ok := networks[network]; ok && !n.isStream() {
		return nil, badFraming("only streams need it")
	}
	f, err := o.Framing.framer()
	if err != nil {
		return nil, err
	}
	return &packets{framer: f}, nil
}
