package fastcgi

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// A Role is the role that a Request asks the application to play.
type Role uint16

// The roles of the specification.
const (
	RoleResponder  Role = 1 + iota // produces a response
	RoleAuthorizer                 // decides whether a request is allowed
	RoleFilter                     // processes a file; not supported, since it needs a second input stream
)

// A Request is a request to an application.
type Request struct {
	// Params are the meta-variables of RFC 3875, and further parameters that the
	// application expects. CONTENT_LENGTH is set to the length of Body, and is absent
	// without a Body.
	Params map[string]string

	// Body is the request's body. The application receives ContentLength bytes of it. If
	// ContentLength is negative, the length is unknown and the application receives all
	// of Body. A nil Body is no body. If the request ends early, by ctx or by an error,
	// Do may return while a Read of Body is in progress.
	Body          io.Reader
	ContentLength int64

	// Role is the application's role. Default: RoleResponder.
	Role Role

	// Idempotent says that the application may receive the request twice. Such a request
	// is sent once more, on a new connection, if it was sent on an idle connection, the
	// application closed that connection before it sent any byte of the response, and
	// Body is nil or at most 16 KiB long. A request that timed out is never sent again.
	//
	// Idempotent requests, and requests whose REQUEST_METHOD is GET, HEAD, OPTIONS or
	// TRACE, use an idle connection if there is one. Other requests use a new connection,
	// and so do requests with a longer Body or with more than 64 KiB of Params. See
	// Client.ReuseForNonIdempotent.
	Idempotent bool

	// Stderr, if not nil, is called with each piece of the application's standard error
	// that arrives while the response is read. Response.Stderr also returns what arrives
	// later. p is valid only during the call.
	Stderr func(p []byte)

	// interrupt, if not nil, ends a Read of Body. Do then waits for a Read in progress,
	// so that Body is not read after an error or after the end of the response.
	interrupt func()

	// closeBody, if not nil, is called once: after Body has been read, or to end a Read
	// in progress. Do does not wait for it.
	closeBody func()
}

// isIdempotent reports whether a request may use an idle connection, which the application
// may be closing at that moment (RFC 9110, section 9.2.2).
func (r *Request) isIdempotent() bool {
	return r.Idempotent || isSafe(r.Params["REQUEST_METHOD"])
}

// isSafe reports whether a method is safe, and so idempotent (RFC 9110, section 9.2.1).
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

const (
	initialBufferSize = 1 << 10  // enough for most requests without a body
	maxParamLen       = 16 << 20 // of a name or a value
)

// appendBeginAndParams appends BEGIN_REQUEST and the PARAMS records. Their request ID is
// firstRequestID until setRequestID is called.
func appendBeginAndParams(p []byte, r *Request, contentLength int64) ([]byte, error) {
	role := r.Role
	if role == 0 {
		role = RoleResponder
	}
	begin := binary.BigEndian.AppendUint16(nil, uint16(role))
	p = appendRecord(p, typeBeginRequest, firstRequestID, append(begin, flagKeepConn, 0, 0, 0, 0, 0))
	// A stream may be divided at any byte, but php-fpm parses each PARAMS record by
	// itself. A pair that fits into one record is never divided.
	pairs, pair := make([]byte, 0, initialBufferSize), []byte(nil)
	add := func(name, value string) {
		pair = appendPair(pair[:0], name, value)
		if len(pairs)+len(pair) > maxUnpaddedLen {
			p = appendStream(p, typeParams, pairs)
			pairs = pairs[:0]
		}
		pairs = append(pairs, pair...)
	}
	for name, value := range r.Params {
		switch {
		case name == "CONTENT_LENGTH":
		case len(name) > maxParamLen || len(value) > maxParamLen:
			return nil, fmt.Errorf("fastcgi: parameter %.40q of %d bytes is too long: its name and its value may have up to %d bytes", name, len(name)+len(value), maxParamLen)
		default:
			add(name, value)
		}
	}
	if r.Body != nil {
		add("CONTENT_LENGTH", strconv.FormatInt(contentLength, 10))
	}
	p = appendStream(p, typeParams, pairs)
	return appendRecord(p, typeParams, firstRequestID, nil), nil
}
