package fastcgi

import (
	"encoding/binary"
	"fmt"
)

// A record of the FastCGI Specification 1.0 (section 3.3). All numbers are big-endian.
//
//	version | type | request ID (2) | content length (2) | padding length | reserved
//	content
//	padding
const (
	version        = 1
	headerLen      = 8
	maxContentLen  = 1<<16 - 1
	maxPaddingLen  = 1<<8 - 1
	maxUnpaddedLen = maxContentLen &^ 7 // a multiple of 8 needs no padding
	firstRequestID = 1                  // of a connection; see requestIDAfter
)

// requestIDAfter returns the ID of a request on a connection that has carried that many
// requests before. Requests are sequential, but each has its own ID: after
// fastcgi_finish_request a script may write records with its ID when the connection
// already carries the next request. The ID shows that these records are stale. IDs run
// from 1 to 65535 and start again.
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

const flagKeepConn = 1 // of BEGIN_REQUEST

// maxRecordLen is the length of the longest record.
const maxRecordLen = headerLen + maxContentLen + maxPaddingLen

// recordLen returns the length of the record that p begins with, or 0 if p is too short to
// tell.
func recordLen(p []byte) int {
	if len(p) < headerLen {
		return 0
	}
	return headerLen + int(binary.BigEndian.Uint16(p[4:])) + int(p[6])
}

// A record is a received record. content is valid until the next record is received.
type record struct {
	typ     recordType
	id      uint16
	content []byte
}

// parseRecord parses one whole record.
func parseRecord(p []byte) (record, error) {
	if len(p) < headerLen {
		return record{}, &ProtocolError{Reason: fmt.Sprintf("record of %d bytes is shorter than its header", len(p))}
	}
	r := record{typ: recordType(p[1]), id: binary.BigEndian.Uint16(p[2:])}
	n := int(binary.BigEndian.Uint16(p[4:]))
	switch {
	case p[0] != version:
		return record{}, &ProtocolError{Reason: fmt.Sprintf("version %d is not supported", p[0]), Head: firstBytes(p)}
	case len(p) != headerLen+n+int(p[6]):
		return record{}, &ProtocolError{Reason: "record is incomplete", Head: firstBytes(p)}
	}
	r.content = p[headerLen : headerLen+n]
	return r, nil
}

// firstBytes returns a copy of the first bytes of a record, for ProtocolError.Head.
func firstBytes(p []byte) []byte { return append([]byte(nil), p[:min(len(p), 32)]...) }

// appendRecord appends a record that is padded to a multiple of 8 bytes, as the
// specification recommends. content must not be longer than maxContentLen.
func appendRecord(p []byte, typ recordType, id uint16, content []byte) []byte {
	padding := -len(content) & 7
	p = appendRecordHeader(p, typ, id, len(content), padding)
	p = append(p, content...)
	return append(p, make([]byte, padding)...)
}

func appendRecordHeader(p []byte, typ recordType, id uint16, contentLen, paddingLen int) []byte {
	p = append(p, version, byte(typ))
	p = binary.BigEndian.AppendUint16(p, id)
	p = binary.BigEndian.AppendUint16(p, uint16(contentLen))
	return append(p, byte(paddingLen), 0)
}

// appendStream appends content in as many records as needed. Their request ID is
// firstRequestID until setRequestID is called.
func appendStream(p []byte, typ recordType, content []byte) []byte {
	for len(content) > 0 {
		n := min(len(content), maxUnpaddedLen)
		p = appendRecord(p, typ, firstRequestID, content[:n])
		content = content[n:]
	}
	return p
}

// setRequestID sets the request ID of all records in p, which must be whole.
func setRequestID(p []byte, id uint16) {
	for len(p) > 0 {
		binary.BigEndian.PutUint16(p[2:], id)
		p = p[recordLen(p):]
	}
}

// appendPair appends a name-value pair (specification, section 3.4).
func appendPair(p []byte, name, value string) []byte {
	p = appendSize(p, len(name))
	p = appendSize(p, len(value))
	p = append(p, name...)
	return append(p, value...)
}

// pairLen returns the length of a name-value pair.
func pairLen(name, value string) int {
	n := 2 + len(name) + len(value)
	for _, s := range [...]string{name, value} {
		if len(s) >= 1<<7 {
			n += 3
		}
	}
	return n
}

func appendSize(p []byte, n int) []byte {
	if n < 1<<7 {
		return append(p, byte(n))
	}
	return binary.BigEndian.AppendUint32(p, 1<<31|uint32(n))
}

// parsePairs parses name-value pairs.
func parsePairs(p []byte) (map[string]string, error) {
	pairs := make(map[string]string)
	for len(p) > 0 {
		var nameLen, valueLen int
		var err error
		if nameLen, p, err = parseSize(p); err != nil {
			return nil, err
		}
		if valueLen, p, err = parseSize(p); err != nil {
			return nil, err
		}
		if nameLen > len(p) || valueLen > len(p)-nameLen {
			return nil, &ProtocolError{Reason: "name-value pair is longer than its record"}
		}
		pairs[string(p[:nameLen])] = string(p[nameLen : nameLen+valueLen])
		p = p[nameLen+valueLen:]
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
	return 0, nil, &ProtocolError{Reason: "length in a name-value pair is cut off"}
}
