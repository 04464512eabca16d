package frame

import (
	"bytes"
	"fmt"
	"slices"
)

// A delimiter has packets that end with delim.
type delimiter struct {
	delim []byte
	limit int
}

// NewDelimiter returns the codec of packets that end with delim, which it copies.
func NewDelimiter(delim []byte, limit int) (Codec, error) {
	limit, err := checkMax(limit)
	switch {
	case err != nil:
		return nil, err
	case len(delim) == 0:
		return nil, invalid("Delim is empty: set the bytes that a packet ends with")
	case len(delim) > limit:
		return nil, invalid("Delim has %d bytes and Max is %d: set a larger Max", len(delim), limit)
	}
	return &delimiter{delim: slices.Clone(delim), limit: limit}, nil
}

func (f *delimiter) Max() int { return f.limit }

func (f *delimiter) Size(p []byte, seen int) (int, error) {
	from := max(seen-len(f.delim)+1, 0) // what was seen may end with a part of delim
	if i := bytes.Index(p[from:min(len(p), f.limit)], f.delim); i >= 0 {
		return from + i + len(f.delim), nil
	}
	if len(p) >= f.limit {
		return 0, &Error{Reason: fmt.Sprintf("%d bytes were received without %q, and Max is %d", len(p), f.delim, f.limit), Length: int64(len(p))}
	}
	return 0, nil
}

func (f *delimiter) Ends(p []byte, ends []int32) int {
	end := 0
	for n := range ends {
		var i int
		if len(f.delim) == 1 {
			i = bytes.IndexByte(p[end:], f.delim[0]) // bytes.Index takes longer to come to it
		} else {
			i = bytes.Index(p[end:], f.delim)
		}
		if i < 0 || i > f.limit-len(f.delim) {
			return n
		}
		end += i + len(f.delim)
		ends[n] = int32(end)
	}
	return len(ends)
}

func (f *delimiter) Frame(p, _ []byte) (missing []byte, at int, err error) {
	total := len(p) + len(f.delim)
	switch {
	case total > f.limit:
		return nil, 0, tooLong(uint64(total), f.limit)
	case bytes.Contains(p, f.delim), f.endsEarly(p):
		return nil, 0, &Error{Reason: fmt.Sprintf("it contains %q, which would end it there", f.delim), Length: int64(total)}
	}
	return f.delim, len(p), nil
}

// endsEarly reports whether p ends with a part of delim that makes a delim together with the
// beginning of the one that follows.
func (f *delimiter) endsEarly(p []byte) bool {
	for k := 1; k < len(f.delim) && k <= len(p); k++ {
		if bytes.HasSuffix(p, f.delim[:k]) && bytes.HasPrefix(f.delim, f.delim[k:]) {
			return true
		}
	}
	return false
}
