package client

import (
	"github.com/blocksock/client/internal/frame"
)

// A Framing tells where on a byte stream one packet ends and the next begins. It is a
// LengthPrefix, a Delimiter or a LengthFunc.
type Framing interface {
	codec() (frame.Codec, error)
}

// DefaultMaxPacket is the longest packet in bytes if the Max of a Framing is zero: 2 MiB.
const DefaultMaxPacket = frame.DefaultMax

// A LengthPrefix is the framing of packets with their length in the header.
//
// The length is Offset bytes after the beginning of the packet and counts the bytes from
// BodyOffset on, so that a packet has BodyOffset plus the length bytes. If BodyOffset is the
// size of the header, the length is that of the body. If it is less, the length counts some or
// all of the header too. A packet that ends before its length does is malformed.
type LengthPrefix struct {
	Encoding   LengthEncoding // Default: Uint32BE.
	Offset     int
	BodyOffset int
	Max        int // the longest packet in bytes, header included; default: DefaultMaxPacket

	// Whole makes SendPacket send packets as RecvPacket returns them, with their length.
	// Default: SendPacket inserts the length.
	Whole bool
}

// A LengthEncoding is how LengthPrefix encodes a length: a letter of PHP's pack. Those without
// a constant are c and C, one byte, signed and unsigned; s and S, two bytes, l and L and i and
// I, four, and q and Q, eight, in this machine's byte order. A negative length is malformed.
type LengthEncoding byte

// The unsigned encodings of one to eight bytes, big-endian (BE) and little-endian (LE).
const (
	Uint8    LengthEncoding = 'C'
	Uint16BE LengthEncoding = 'n'
	Uint16LE LengthEncoding = 'v'
	Uint32BE LengthEncoding = 'N'
	Uint32LE LengthEncoding = 'V'
	Uint64BE LengthEncoding = 'J'
	Uint64LE LengthEncoding = 'P'
)

// A Delimiter is the framing of packets that end with Delim, which is a part of them.
type Delimiter struct {
	Delim []byte
	Max   int // the longest packet in bytes, Delim included; default: DefaultMaxPacket

	// Whole makes SendPacket send packets as RecvPacket returns them, with Delim. Default:
	// SendPacket appends Delim.
	Whole bool
}

// A LengthFunc is a framing by a function. Func receives what has arrived from the beginning
// of the packet on, which may be a part of the packet or more than it. It returns the length
// of the packet, or 0 if it needs more bytes. A negative length and an error mean that this
// is no packet.
type LengthFunc struct {
	Func func(p []byte) (int, error)
	Max  int // the longest packet in bytes; default: DefaultMaxPacket
}

// A PacketError is about bytes that are no packet by the client's Framing. The client returns
// no further packets, because it is unknown where the next one begins.
type PacketError struct {
	Reason string
	Length int64  // of the packet, as far as it is known; what does not fit is math.MaxInt64
	Max    int    // the longest packet
	Head   []byte // the first bytes of the packet, 32 at most
	Err    error  // of LengthFunc.Func
}

func (e *PacketError) Error() string { return (*frame.Error)(e).Error() }

func (e *PacketError) Unwrap() error { return e.Err }

// packetErr makes the public error of one of internal/frame.
func packetErr(err error) error {
	if e, ok := err.(*frame.Error); ok { //nolint:errorlint // as frame returns it
		return (*PacketError)(e)
	}
	return err
}

func (l LengthPrefix) codec() (frame.Codec, error) {
	codec, err := frame.NewLengthPrefix(byte(l.Encoding), l.Offset, l.BodyOffset, l.Max)
	if l.Whole && err == nil {
		codec = frame.Whole(codec)
	}
	return codec, err
}

func (d Delimiter) codec() (frame.Codec, error) {
	codec, err := frame.NewDelimiter(d.Delim, d.Max)
	if d.Whole && err == nil {
		codec = frame.Whole(codec)
	}
	return codec, err
}

func (l LengthFunc) codec() (frame.Codec, error) { return frame.NewLengthFunc(l.Func, l.Max) }

var errNoFraming = badFraming("is not set: set it to receive or send packets")

func badFraming(reason string) error {
	return &OptionError{Option: "Framing", Reason: reason}
}

// frames returns what a client of a network needs for Framing; nil if it is not set.
func (o *Options) frames(network string) (*frame.Buffer, error) {
	if o.Framing == nil {
		return nil, nil
	}
	if n, ok := networks[network]; ok && !n.isStream() {
		return nil, badFraming("is for streams only, and " + network + " keeps message boundaries")
	}
	codec, err := o.Framing.codec()
	if err != nil {
		return nil, badFraming(err.Error())
	}
	return frame.NewBuffer(codec), nil
}
