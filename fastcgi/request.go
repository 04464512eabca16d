package fastcgi

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
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

const maxParamLen = 16 << 20 // of a name or a value

// A requestHead is BEGIN_REQUEST and the PARAMS records, followed by the STDIN records if
// the body is sent with them. Their request ID is firstRequestID until setRequestID is
// called. It uses the memory of an earlier one.
type requestHead struct {
	p     []byte
	begin int // of the PARAMS record that is being filled
}

var requestHeads = sync.Pool{New: func() any { return &requestHead{p: make([]byte, 0, 2<<10)} }}

// free makes the memory available to other requests.
func (h *requestHead) free() {
	const tooLarge = 128 << 10 // to be kept for requests that are mostly short
	if cap(h.p) <= tooLarge {
		requestHeads.Put(h)
	}
}

// newRequestHead returns the head of a request with a body of that length. The caller frees
// it.
func newRequestHead(r *Request, contentLength int64) (*requestHead, error) {
	role := r.Role
	if role == 0 {
		role = RoleResponder
	}
	h := requestHeads.Get().(*requestHead)
	h.p = appendRecordHeader(h.p[:0], typeBeginRequest, firstRequestID, 8, 0)
	h.p = append(binary.BigEndian.AppendUint16(h.p, uint16(role)), flagKeepConn, 0, 0, 0, 0, 0)
	h.beginParams()
	for name, value := range r.Params {
		switch {
		case name == "CONTENT_LENGTH":
		case len(name) > maxParamLen || len(value) > maxParamLen:
			h.free()
			return nil, fmt.Errorf("fastcgi: parameter %.40q of %d bytes is too long: its name and its value may have up to %d bytes", name, len(name)+len(value), maxParamLen)
		default:
			h.addParam(name, value)
		}
	}
	if r.Body != nil {
		h.addParam("CONTENT_LENGTH", strconv.FormatInt(contentLength, 10))
	}
	h.endParams()
	h.p = appendRecord(h.p, typeParams, firstRequestID, nil)
	return h, nil
}

func (h *requestHead) beginParams() {
	h.begin = len(h.p)
	h.p = appendRecordHeader(h.p, typeParams, firstRequestID, 0, 0)
}

// endParams ends a PARAMS record. It removes an empty one, which would end the stream.
func (h *requestHead) endParams() {
	content := len(h.p) - h.begin - headerLen
	if content == 0 {
		h.p = h.p[:h.begin]
		return
	}
	padding := -content & 7
	appendRecordHeader(h.p[:h.begin], typeParams, firstRequestID, content, padding)
	h.p = append(h.p, make([]byte, padding)...)
}

// addParam adds a parameter. A stream may be divided at any byte, but php-fpm parses each
// PARAMS record by itself. A pair that fits into one record is never divided.
func (h *requestHead) addParam(name, value string) {
	content := len(h.p) - h.begin - headerLen
	switch size := pairLen(name, value); {
	case size > maxUnpaddedLen:
		h.endParams()
		h.p = appendStream(h.p, typeParams, appendPair(nil, name, value))
		h.beginParams()
		return
	case content+size > maxUnpaddedLen:
		h.endParams()
		h.beginParams()
	}
	h.p = appendPair(h.p, name, value)
}
