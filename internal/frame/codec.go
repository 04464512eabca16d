// Package frame cuts a byte stream into packets: the codecs, and the buffer between the
// stream and the packets. It does no I/O.
package frame

import (
	"cmp"
	"errors"
	"fmt"
	"math"
)

// DefaultMax is the longest packet in bytes if a codec's max is zero.
const DefaultMax = 2 << 20

// A Codec finds and makes packets.
type Codec interface {
	// Size is the length of the packet that p begins with, or 0 if more of it is needed.
	// The first seen bytes of p were there in an earlier call that returned 0.
	Size(p []byte, seen int) (int, error)

	// Ends sets where the packets end that p begins with and that it has whole, up to the number
	// of ends and before what is not a packet. It returns how many it has found. It may be called
	// before the packets before p are returned.
	Ends(p []byte, ends []int32) int

	// Frame returns what p lacks to be a packet, and at which offset of p it belongs. It may
	// use scratch, which has 8 bytes.
	Frame(p, scratch []byte) (missing []byte, at int, err error)

	// Max is the longest packet in bytes.
	Max() int
}

// An Error is about bytes that are not a packet. A codec sets all fields but Max and Head.
type Error struct {
	Reason string
	Length int64  // of the packet, as far as it is known; what does not fit is math.MaxInt64
	Max    int    // the longest packet
	Head   []byte // the first bytes of the packet, 32 at most
	Err    error  // of a function of the caller's
}

func (e *Error) Error() string {
	return fmt.Sprintf("malformed packet: %s (it begins with %q)", e.Reason, e.Head)
}

func (e *Error) Unwrap() error { return e.Err }

// Whole returns a codec as c whose packets are sent as they are received: Frame adds nothing.
func Whole(c Codec) Codec { return whole{c} }

type whole struct{ Codec }

func (w whole) Frame(p, _ []byte) (missing []byte, at int, err error) {
	switch n, err := w.Size(p, 0); {
	case err != nil:
		return nil, 0, err
	case n != len(p):
		return nil, 0, &Error{Reason: fmt.Sprintf("packet of %d bytes has the length %d by the framing", len(p), n), Length: int64(n)}
	}
	return nil, len(p), nil
}

// complete adds to the error of a codec what a codec does not set.
func complete(err error, limit int, p []byte) error {
	var e *Error
	if errors.As(err, &e) {
		e.Max, e.Head = limit, append([]byte(nil), p[:min(len(p), 32)]...)
	}
	return err
}

// invalid is the error of a codec that cannot be. It begins with the name of a public field.
func invalid(format string, args ...any) error { return fmt.Errorf(format, args...) }

func checkMax(limit int) (int, error) {
	if limit < 0 {
		return 0, invalid("Max is %d: set a size in bytes, or 0 for %d", limit, DefaultMax)
	}
	return cmp.Or(limit, DefaultMax), nil
}

func negative(length int64) error {
	return &Error{Reason: fmt.Sprintf("the length %d is negative", length), Length: length}
}

func tooLong(length uint64, limit int) error {
	return &Error{
		Reason: fmt.Sprintf("the length %d is larger than Max, which is %d", length, limit),
		Length: int64(min(length, math.MaxInt64)),
	}
}
