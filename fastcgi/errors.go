package fastcgi

import (
	"errors"
	"fmt"
	"os"
)

// A ProtocolError is a response that violates the FastCGI protocol. The connection has
// been closed.
type ProtocolError struct {
	Reason string
	Head   []byte // the first bytes of the record, up to 32, or nil
}

func (e *ProtocolError) Error() string {
	if len(e.Head) == 0 {
		return "fastcgi: protocol error: " + e.Reason
	}
	return fmt.Sprintf("fastcgi: protocol error: %s (record begins % x)", e.Reason, e.Head)
}

// A ProtocolStatus is the protocol status of END_REQUEST if that is not REQUEST_COMPLETE.
// It is the error of a request that the application has rejected without processing it.
type ProtocolStatus uint8

// The protocol statuses of the specification, other than REQUEST_COMPLETE.
const (
	StatusCantMultiplex ProtocolStatus = 1 + iota // CANT_MPX_CONN: a second request on one connection
	StatusOverloaded                              // OVERLOADED: the application is out of resources
	StatusUnknownRole                             // UNKNOWN_ROLE: the application does not support Request.Role
)

func (s ProtocolStatus) Error() string {
	switch s {
	case StatusCantMultiplex:
		return "fastcgi: the application accepts one request per connection (CANT_MPX_CONN)"
	case StatusOverloaded:
		return "fastcgi: the application is overloaded (OVERLOADED)"
	case StatusUnknownRole:
		return "fastcgi: the application does not support the role (UNKNOWN_ROLE): set Request.Role to another one"
	}
	return fmt.Sprintf("fastcgi: the application rejected the request with protocol status %d", uint8(s))
}

// A HeaderError is a response whose header is not a CGI header (RFC 3875, section 6.3).
type HeaderError struct {
	Reason string
	Line   string // the first 64 bytes of the line in question, or empty
}

func (e *HeaderError) Error() string {
	if e.Line == "" {
		return "fastcgi: response header: " + e.Reason
	}
	return fmt.Sprintf("fastcgi: response header: %s: %q", e.Reason, e.Line)
}

// A BodyError is an error of reading a request's body, as opposed to sending it. It wraps
// the error of Read, for example an *http.MaxBytesError, or ErrBodyTimeout.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return "fastcgi: read request body: " + e.Err.Error() }

// Unwrap returns the error of Read.
func (e *BodyError) Unwrap() error { return e.Err }

// Timeout reports whether Err is a timeout.
func (e *BodyError) Timeout() bool { return isTimeout(e.Err) }

// A TempFileError is an error of the temporary file that stores a request's body.
// errors.Is finds syscall.ENOSPC if the disk is full.
type TempFileError struct{ Err error }

func (e *TempFileError) Error() string {
	return fmt.Sprintf("fastcgi: store request body in a temporary file: %v; free space in %s or set TMPDIR", e.Err, os.TempDir())
}

// Unwrap returns the error of the file.
func (e *TempFileError) Unwrap() error { return e.Err }

// A BusyError is the error of a request that got no connection within
// Options.ConnectTimeout or before its context's deadline, because all MaxConns
// connections were in use or because the application's backlog was full. Nothing of the
// request was sent. It wraps the error of Pool.Dial, which is a timeout.
type BusyError struct {
	Conns int // number of connections in use; 0 if the backlog was full
	Err   error
}

func (e *BusyError) Error() string {
	if e.Conns == 0 {
		return fmt.Sprintf("fastcgi: the application's backlog is full: raise the number of workers (pm.max_children): %v", e.Err)
	}
	return fmt.Sprintf("fastcgi: all %d connections are in use: raise MaxConns and the number of workers (pm.max_children): %v", e.Conns, e.Err)
}

// Unwrap returns the error of the dial.
func (e *BusyError) Unwrap() error { return e.Err }

// Timeout returns true.
func (e *BusyError) Timeout() bool { return true }

// A ParamError is the error of a request with a parameter that does not fit into one
// record, if the application closed the connection before it sent the response's header.
// php-fpm does so for a parameter of more than about 65,500 bytes. ParamError wraps the
// error of the connection.
type ParamError struct {
	Name   string
	Length int // length of the value in bytes
	Err    error
}

func (e *ParamError) Error() string {
	return fmt.Sprintf("fastcgi: the application closed the connection: shorten parameter %.40q of %d bytes (php-fpm accepts up to 65,500): %v", e.Name, e.Length, e.Err)
}

// Unwrap returns the error of the connection.
func (e *ParamError) Unwrap() error { return e.Err }

// isTimeout reports whether err is a timeout of a call or of a context.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

type bodyTimeoutError struct{}

func (bodyTimeoutError) Error() string {
	return "timeout: raise Client.BodyTimeout if a body may pause longer"
}
func (bodyTimeoutError) Timeout() bool        { return true }
func (bodyTimeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// ErrBodyTimeout is wrapped by the *BodyError of a request whose body's Read took longer
// than Client.BodyTimeout. errors.Is(ErrBodyTimeout, os.ErrDeadlineExceeded) is true.
var ErrBodyTimeout error = bodyTimeoutError{}

var (
	// ErrLengthRequired is the error of a request with a body of unknown length if
	// Client.MaxBufferedBody is negative.
	ErrLengthRequired = errors.New("fastcgi: request body of unknown length: set ContentLength, or set Client.MaxBufferedBody to 0 or more")

	// ErrBodyTooLong is the error of a request whose body is longer than its ContentLength,
	// or too long for Client.MaxBufferedBody.
	ErrBodyTooLong = errors.New("fastcgi: request body is longer than its ContentLength or than Client.MaxBufferedBody")

	// ErrBodyTooShort is the error of a request whose body is shorter than its
	// ContentLength.
	ErrBodyTooShort = errors.New("fastcgi: request body is shorter than its ContentLength")
)
