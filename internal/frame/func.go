package frame

import (
	"fmt"
)

// A lengthFunc has packets whose length a function of the caller's knows.
type lengthFunc struct {
	size  func(p []byte) (int, error)
	limit int
}

// NewLengthFunc returns the codec of packets whose length size returns, or 0 if it needs more
// of the packet.
func NewLengthFunc(size func(p []byte) (int, error), limit int) (Codec, error) {
	limit, err := checkMax(limit)
	if err != nil {
		return nil, err
	}
	if size == nil {
		return nil, invalid("Func is nil: set a function that returns a packet's length")
	}
	return &lengthFunc{size: size, limit: limit}, nil
}

func (f *lengthFunc) Max() int { return f.limit }

func (f *lengthFunc) Size(p []byte, _ int) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.size(p)
	switch {
	case err != nil:
		return 0, &Error{Reason: err.Error(), Length: int64(n), Err: err}
	case n < 0:
		return 0, negative(int64(n))
	case n > f.limit:
		return 0, tooLong(uint64(n), f.limit)
	case n == 0 && len(p) >= f.limit:
		return 0, &Error{Reason: fmt.Sprintf("Func returned no length for %d bytes, and Max is %d", len(p), f.limit), Length: int64(len(p))}
	}
	return n, nil
}

// Ends finds none: the caller may change what the function returns while it handles the packets
// before.
func (f *lengthFunc) Ends([]byte, []int32) int { return 0 }

func (f *lengthFunc) Frame(p, scratch []byte) (missing []byte, at int, err error) {
	return whole{f}.Frame(p, scratch)
}
