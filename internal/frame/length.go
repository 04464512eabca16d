package frame

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
)

// A lengthPrefix has packets with their length in the header.
type lengthPrefix struct {
	encoding   byte
	offset     int // of the length
	bodyOffset int // from which the length counts
	limit      int
	width      int
	signed     bool
	order      binary.ByteOrder
}

// NewLengthPrefix returns the codec of packets whose length is at offset and counts the bytes
// from bodyOffset on. encoding is a letter of PHP's pack; zero is 'N'.
func NewLengthPrefix(encoding byte, offset, bodyOffset, limit int) (Codec, error) {
	limit, err := checkMax(limit)
	if err != nil {
		return nil, err
	}
	f := &lengthPrefix{
		encoding: cmp.Or(encoding, 'N'), offset: offset, bodyOffset: bodyOffset, limit: limit,
		order: binary.NativeEndian,
	}
	switch f.encoding {
	case 'c', 'C':
		f.width = 1
	case 's', 'S', 'n', 'v':
		f.width = 2
	case 'l', 'L', 'i', 'I', 'N', 'V':
		f.width = 4
	case 'q', 'Q', 'J', 'P':
		f.width = 8
	default:
		return nil, invalid("Encoding is %q: set Uint32BE or another of its constants, or a letter of PHP's pack", encoding)
	}
	switch f.encoding {
	case 'c', 's', 'l', 'i', 'q':
		f.signed = true
	case 'n', 'N', 'J':
		f.order = binary.BigEndian
	case 'v', 'V', 'P':
		f.order = binary.LittleEndian
	}
	switch {
	case offset < 0 || bodyOffset < 0:
		return nil, invalid("Offset is %d and BodyOffset is %d: set none below 0", offset, bodyOffset)
	case offset > limit-f.width || bodyOffset > limit:
		return nil, invalid("Offset %d and BodyOffset %d leave no packet within Max, which is %d: set a larger Max", offset, bodyOffset, limit)
	}
	return f, nil
}

func (f *lengthPrefix) Max() int { return f.limit }

func (f *lengthPrefix) Size(p []byte, _ int) (int, error) {
	header := f.offset + f.width
	if len(p) < header {
		return 0, nil
	}
	length := f.get(p[f.offset:])
	if f.signed {
		// Shifted up and down again, the sign of a narrow number is a wide one's.
		unused := 64 - 8*f.width
		if n := int64(length<<unused) >> unused; n < 0 {
			return 0, negative(n)
		}
	}
	switch {
	case length > uint64(f.limit-f.bodyOffset):
		sum := length + uint64(f.bodyOffset)
		if sum < length {
			sum = math.MaxUint64
		}
		return 0, tooLong(sum, f.limit)
	case int(length)+f.bodyOffset < header:
		return 0, &Error{
			Reason: fmt.Sprintf("the length %d is less than that of the header, which has %d bytes", int(length)+f.bodyOffset, header),
			Length: int64(length) + int64(f.bodyOffset),
		}
	}
	return int(length) + f.bodyOffset, nil
}

func (f *lengthPrefix) Ends(p []byte, ends []int32) int {
	end := 0
	for n := range ends {
		size, err := f.Size(p[end:], 0)
		if err != nil || size == 0 || size > len(p)-end {
			return n
		}
		end += size
		ends[n] = int32(end)
	}
	return len(ends)
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

func (f *lengthPrefix) Frame(p, scratch []byte) (missing []byte, at int, err error) {
	total := len(p) + f.width
	length := total - f.bodyOffset
	bits := 8 * f.width
	if f.signed {
		bits--
	}
	switch {
	case len(p) < f.offset, length < 0:
		return nil, 0, &Error{Reason: fmt.Sprintf("packet of %d bytes is shorter than Offset and BodyOffset require", total), Length: int64(total)}
	case total > f.limit:
		return nil, 0, tooLong(uint64(total), f.limit)
	case bits < 63 && length>>bits != 0:
		return nil, 0, &Error{Reason: fmt.Sprintf("the length %d does not fit into Encoding %q", length, f.encoding), Length: int64(total)}
	}
	missing = scratch[:f.width]
	switch f.width {
	case 1:
		missing[0] = byte(length)
	case 2:
		f.order.PutUint16(missing, uint16(length))
	case 4:
		f.order.PutUint32(missing, uint32(length))
	default:
		f.order.PutUint64(missing, uint64(length))
	}
	return missing, f.offset, nil
}
