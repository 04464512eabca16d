package fastcgi

import (
	"errors"
	"fmt"
	"os"
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

// A ProtocolStatus is why an application has not carried a request out, which it has not
// begun: the protocol status of END_REQUEST.
type ProtocolStatus uint8

// The refusals.
const (
	StatusCantMultiplex ProtocolStatus = 1 + iota // CANT_MPX_CONN: two requests on one connection
	StatusOverloaded                              // OVERLOADED: no room for it now
	StatusUnknownRole                             // UNKNOWN_ROLE: no such Request.Role there
)

func (r ProtocolStatus) Error() string {
	switch r {
	case StatusCantMultiplex:
		return "fastcgi: the application takes one request a connection (CANT_MPX_CONN)"
	case StatusOverloaded:
		return "fastcgi: the application is overloaded (OVERLOADED)"
	case StatusUnknownRole:
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

// A BodyError is an error of reading a request's body, as opposed to one of sending it.
// It wraps the error of the body's Read, an *http.MaxBytesError for example, or
// ErrBodyTimeout.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return "fastcgi: reading the request's body: " + e.Err.Error() }

// Unwrap gives the error of Read.
func (e *BodyError) Unwrap() error { return e.Err }

// Timeout reports whether Err is a timeout.
func (e *BodyError) Timeout() bool { return isTimeout(e.Err) }

// A TempFileError is an error of the temporary file for a request's body of unknown length.
// errors.Is finds syscall.ENOSPC if the disk is full.
type TempFileError struct{ Err error }

func (e *TempFileError) Error() string {
	return fmt.Sprintf("fastcgi: the temporary file for a body of unknown length: %v; make room in %s, or set TMPDIR", e.Err, os.TempDir())
}

// Unwrap gives the error of the file.
func (e *TempFileError) Unwrap() error { return e.Err }

// A BusyError is the error of a request that got no connection within
// Options.ConnectTimeout, or before its context's deadline, because all MaxConns were in
// use or the application's backlog was full. Nothing of the request was sent. It wraps
// the error of Pool.Dial, which is a timeout.
type BusyError struct {
	Conns int // connections in use; 0 if the backlog was full
	Err   error
}

func (e *BusyError) Error() string {
	if e.Conns == 0 {
		return fmt.Sprintf("fastcgi: the application's backlog is full: raise the number of workers (pm.max_children): %v", e.Err)
	}
	return fmt.Sprintf("fastcgi: all %d connections are in use: raise MaxConns and the number of workers (pm.max_children): %v", e.Conns, e.Err)
}

// Unwrap gives the error of the dial.
func (e *BusyError) Unwrap() error { return e.Err }

// Timeout is true.
func (e *BusyError) Timeout() bool { return true }

// A ParamError is the error of a request whose connection the application has closed
// before the response's header had come, and one of whose parameters does not fit into a
// record: php-fpm takes none that is longer than 65,500 bytes or so. It wraps the end of
// the connection.
type ParamError struct {
	Name   string
	Length int // of its value, in bytes
	Err    error
}

func (e *ParamError) Error() string {
	return fmt.Sprintf("fastcgi: the application has closed the connection, maybe because %.40q has %d bytes: php-fpm takes up to 65,500: %v", e.Name, e.Length, e.Err)
}

// Unwrap gives the end of the connection.
func (e *ParamError) Unwrap() error { return e.Err }

// isTimeout reports whether err is a timeout: of a limit, or of a context.
func isTimeout(err error) bool {
	var late interface{ Timeout() bool }
	return errors.As(err, &late) && late.Timeout()
}

// bodyTimeout is ErrBodyTimeout.
type bodyTimeoutError struct{}

func (bodyTimeoutError) Error() string {
	return "timeout: raise Client.BodyTimeout if bodies may pause longer"
}
func (bodyTimeoutError) Timeout() bool        { return true }
func (bodyTimeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// ErrBodyTimeout is the error in the *BodyError of a body whose Read took longer than
// Client.BodyTimeout. errors.Is(err, os.ErrDeadlineExceeded) is true for it.
var ErrBodyTimeout error = bodyTimeoutError{}

var (
	// ErrLengthRequired is for a body of unknown length, with a Client that does not
	// keep one to count it.
	ErrLengthRequired = errors.New("fastcgi: the length of the body is not known")

	// ErrBodyTooLong is for a body that is kept and longer than Client.MaxBufferedBody, or that
	// has more than its ContentLength.
	ErrBodyTooLong = errors.New("fastcgi: the body is too long")

	// ErrBodyTooShort is for a body that has less than its ContentLength.
	ErrBodyTooShort = errors.New("fastcgi: the body is shorter than its length")
)
