package fastcgi

import (
	"errors"
	"fmt"
)

// A ProtocolError is an answer that is not FastCGI, or not the answer to the request.
// The connection is closed.
type ProtocolError struct {
	Reason string
	Head   []byte // the first bytes of the record, if there are any
}

func (e *ProtocolError) Error() string {
	if len(e.Head) == 0 {
		return "fastcgi: " + e.Reason
	}
	return fmt.Sprintf("fastcgi: %s (% x)", e.Reason, e.Head)
}

// A Refusal is why an application has not carried a request out, which it has not
// begun: the protocol status of END_REQUEST.
type Refusal uint8

// The refusals.
const (
	CannotMultiplex Refusal = 1 + iota // CANT_MPX_CONN: two requests on one connection
	Overloaded                         // OVERLOADED: no room for it now
	UnknownRole                        // UNKNOWN_ROLE: no such Request.Role there
)

func (r Refusal) Error() string {
	switch r {
	case CannotMultiplex:
		return "fastcgi: the application takes one request a connection (CANT_MPX_CONN)"
	case Overloaded:
		return "fastcgi: the application is overloaded (OVERLOADED)"
	case UnknownRole:
		return "fastcgi: the application does not have the role (UNKNOWN_ROLE)"
	}
	return fmt.Sprintf("fastcgi: protocol status %d", uint8(r))
}

// A HeaderError is a response whose header is no CGI header (RFC 3875, 6.3).
type HeaderError struct {
	Reason string
	Line   string // what it is about, cut to a short piece
}

func (e *HeaderError) Error() string {
	if e.Line == "" {
		return "fastcgi: response header: " + e.Reason
	}
	return fmt.Sprintf("fastcgi: response header: %s: %q", e.Reason, e.Line)
}

var (
	// ErrLengthRequired is for a body of unknown length, with a Client that does not
	// keep one to count it.
	ErrLengthRequired = errors.New("fastcgi: the length of the body is not known")

	// ErrBodyTooLong is for a body of unknown length that is longer than
	// Client.MaxSpool, or that has more than its ContentLength.
	ErrBodyTooLong = errors.New("fastcgi: the body is too long")

	// ErrBodyTooShort is for a body that has less than its ContentLength.
	ErrBodyTooShort = errors.New("fastcgi: the body is shorter than its length")
)
