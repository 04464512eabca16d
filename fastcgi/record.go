package fastcgi

import (
	"encoding/binary"
	"fmt"

	"github.com/blocksock/client"
)

// The protocol is the FastCGI Specification 1.0. A record is
//
//	version | type | request id (2) | content length (4) (2) | padding length | reserved
//	content
//	padding
//
// and all numbers are big-endian.
const (
	version        = 1
	headerLen      = 8
	maxContentLen  = 1<<16 - 1
	maxUnpaddedLen = maxContentLen &^ 7 // needs no padding
	firstRequestID = 1                  // of a connection's first request; see idAfter
)

// idAfter gives the id of a request on a connection that has had so many requests before.
// There is one request at a time, but each has its own id: after fastcgi_finish_request a
// script may go on writing, under its id, when the connection has its next request
// already, and the id shows that those records are stale. Ids are 1…65535, in turn.
func requestIDAfter(requests int) uint16 { return uint16(requests%maxContentLen) + firstRequestID }

type recordType byte

const (
	typeBeginRequest recordType = 1 + iota
	typeAbortRequest
	typeEndRequest
	typeParams
	typeStdin
	typeStdout
	typeStderr
	typeData
	typeGetValues
	typeGetValuesResult
	typeUnknown
)

func (t recordType) String() string {
	names := [...]string{
		"", "BEGIN_REQUEST", "ABORT_REQUEST", "END_REQUEST", "PARAMS", "STDIN", "STDOUT", "STDERR",
		"DATA", "GET_VALUES", "GET_VALUES_RESULT", "UNKNOWN_TYPE",
	}
	if t == 0 || int(t) >= len(names) {
		return fmt.Sprintf("record of type %d", byte(t))
	}
	return names[t]
}

const flagKeepConn = 1 // flag of BEGIN_REQUEST

// framing gives whole records.
var recordFraming = client.LengthFunc{
	Func: func(p []byte) (int, error) {
		if len(p) < headerLen {
			return 0, nil
		}
		return headerLen + int(binary.BigEndian.Uint16(p[4:])) + int(p[6]), nil
	},
	Max: headerLen + maxContentLen + 255,
}

// A record is one as it was received. Its content is good until the next is.
type record struct {
	typ     recordType
	id      uint16
	content []byte
}

// parse reads a whole record.
func parseRecord(p []byte) (record, error) {
	if len(p) < headerLen {
		return record{}, &ProtocolError{Reason: fmt.Sprintf("a record of %d bytes", len(p))}
	}
	r := record{typ: recordType(p[1]), id: binary.BigEndian.Uint16(p[2:])}
	n := int(binary.BigEndian.Uint16(p[4:]))
	switch {
	case p[0] != version:
		return record{}, &ProtocolError{Reason: fmt.Sprintf("version %d", p[0]), Head: firstBytes(p)}
	case len(p) != headerLen+n+int(p[6]):
		return record{}, &ProtocolError{Reason: "a record that is not whole", Head: firstBytes(p)}
	}
	r.content = p[headerLen : headerLen+n]
	return r, nil
}

func firstBytes(p []byte) []byte { return append([]byte(nil), p[:min(len(p), 32)]...) }

// appendRecord appends a record with padding to a multiple of 8, as the specification
// recommends. The content is no longer than maxLen.
func appendRecord(p []byte, typ recordType, id uint16, content []byte) []byte {
	pad := -len(content) & 7
	p = appendRecordHeader(p, typ, id, len(content), pad)
	p = append(p, content...)
	return append(p, make([]byte, pad)...)
}

func appendRecordHeader(p []byte, typ recordType, id uint16, length, pad int) []byte {
	p = append(p, version, byte(typ))
	p = binary.BigEndian.AppendUint16(p, id)
	p = binary.BigEndian.AppendUint16(p, uint16(length))
	return append(p, byte(pad), 0)
}

// appendStream appends content as records of a type, as many as it takes. See setID.
func appendStream(p []byte, typ recordType, content []byte) []byte {
	for len(content) > 0 {
		n := min(len(content), maxUnpaddedLen)
		p = appendRecord(p, typ, firstRequestID, content[:n])
		content = content[n:]
	}
	return p
}

// setID gives the records of p, which are whole, a request's id.
func setRequestID(p []byte, id uint16) {
	for len(p) > 0 {
		binary.BigEndian.PutUint16(p[2:], id)
		n, _ := recordFraming.Func(p)
		p = p[n:]
	}
}

// appendPair appends a name and its value: 3.4 of the specification.
func appendPair(p []byte, name, value string) []byte {
	p = appendSize(p, len(name))
	p = appendSize(p, len(value))
	p = append(p, name...)
	return append(p, value...)
}

func appendSize(p []byte, n int) []byte {
	if n < 1<<7 {
		return append(p, byte(n))
	}
	return binary.BigEndian.AppendUint32(p, 1<<31|uint32(n))
}

// parsePairs reads names and values.
func parsePairs(p []byte) (map[string]string, error) {
	pairs := make(map[string]string)
	for len(p) > 0 {
		var name, value int
		var err error
		if name, p, err = parseSize(p); err != nil {
			return nil, err
		}
		if value, p, err = parseSize(p); err != nil {
			return nil, err
		}
		if name > len(p) || value > len(p)-name {
			return nil, &ProtocolError{Reason: "a name or value that is longer than its record"}
		}
		pairs[string(p[:name])] = string(p[name : name+value])
		p = p[name+value:]
	}
	return pairs, nil
}

func parseSize(p []byte) (n int, rest []byte, err error) {
	switch {
	case len(p) >= 1 && p[0] < 1<<7:
		return int(p[0]), p[1:], nil
	case len(p) >= 4:
		return int(binary.BigEndian.Uint32(p) &^ (1 << 31)), p[4:], nil
	}
	return 0, nil, &ProtocolError{Reason: "a length that is cut off"}
}
