package fastcgi

import (
	"cmp"
	"io"
	"maps"
	"net/http"
	"strings"
)

// serveScript sends the request to the application and writes the application's response.
func (q *httpRequest) serveScript(s scriptPath) {
	s.prefix = q.prefix
	root := q.root.path
	switch {
	case q.ScriptRoot != "":
		root = q.ScriptRoot
	case q.ResolveRootSymlink:
		root = q.root.realPath
	}
	params := serverParams(q.r, root, s)
	if q.Params != nil {
		maps.Copy(params, q.Params(q.r))
	}
	req, err := newRequest(q.r, params)
	if err != nil {
		q.fail(http.StatusBadRequest, err)
		return
	}
	req.Stderr = func(p []byte) {
		q.stderr = append(q.stderr, p[:min(len(p), maxStderr-len(q.stderr))]...)
	}
	in := &clientBody{Reader: q.r.Body, deadlines: q.deadlines}
	body, err := q.setBody(req, in)
	if err != nil {
		q.fail(statusFor(err), err)
		return
	}
	defer body.close()
	resp, err := q.Client.Do(q.r.Context(), req)
	freeParams(params)
	if req.interrupt != nil {
		defer q.closeStreamedBody(req, resp, err)
	}
	if req.Body == in {
		if q.r.ProtoMajor == 1 && (err != nil || !resp.x.requestSent()) {
			// Otherwise the rest of the body would be parsed as the next request. Over
			// HTTP/2 this field would end all streams.
			q.w.Header().Set("Connection", "close")
		}
		if err != nil && req.interrupt != nil && in.err != nil {
			err = in.err // net/http also cancels the request's context
		}
	}
	if err != nil {
		q.logStderr()
		q.fail(statusFor(err), err)
		return
	}
	defer resp.Body.Close()
	q.writeResponse(resp)
}

// setBody sets the body of req: to the buffered body, so that the worker does not wait for
// the HTTP client, or to in if the body is streamed.
func (q *httpRequest) setBody(req *Request, in *clientBody) (bufferedBody, error) {
	length, maxLen := q.r.ContentLength, cmp.Or(q.Client.MaxBufferedBody, DefaultMaxBufferedBody)
	switch {
	case in.Reader == nil || in.Reader == http.NoBody || length == 0:
		return bufferedBody{}, nil
	case length < 0 && maxLen < 0:
		return bufferedBody{}, ErrLengthRequired
	case length > maxInlineBody && (q.StreamBody || maxLen < 0):
		req.Body, req.ContentLength = in, length
		// Full duplex lets the body be read after the response has begun. The body must
		// not be read after the handler has returned, so closeStreamedBody closes it: in
		// Go 1.26 net/http panics if it reads the rest of the body itself after full
		// duplex was enabled.
		_ = q.deadlines.controller.EnableFullDuplex()
		if q.deadlines.isSupported() {
			req.interrupt = q.deadlines.stopReads
		}
		return bufferedBody{}, nil
	case maxLen < 0:
		maxLen = maxInlineBody
	}
	body, err := bufferBody(in, length, maxLen)
	if err == nil {
		req.Body, req.ContentLength, req.closeBody = body, body.length, body.close
	}
	return body, err
}

func (q *httpRequest) closeStreamedBody(req *Request, resp *Response, err error) {
	if err != nil || !resp.x.requestSent() {
		req.interrupt() // otherwise Close would wait for the rest of the body
	}
	_ = q.r.Body.Close()
}

// writeResponse writes the application's response.
func (q *httpRequest) writeResponse(resp *Response) {
	q.writeHeader(resp)
	out := &clientWriter{q.w, q.deadlines}
	var readErr, writeErr error
	if isUnbuffered(resp) {
		if writeErr = out.flush(); writeErr == nil {
			_, readErr = io.Copy(unbufferedWriter{out}, resp.Body)
		}
		q.logStderr()
	} else {
		b := newResponseBuffer(out, cmp.Or(q.MaxBufferedResponse, DefaultMaxBufferedResponse), resp.Body, q.logf)
		resp.x.onWait = b.startSoon
		_, readErr = io.Copy(b, resp.Body)
		_ = resp.Body.Close() // frees the worker
		q.logStderr()
		writeErr = b.finish() // waits for the HTTP client
	}
	if readErr == nil && writeErr == nil {
		return
	}
	if writeErr == nil && !isCanceled(q.r) {
		q.logf("%s %s: %v", q.r.Method, q.r.URL.Path, readErr)
		_ = out.flush() // the client gets what there is, although it is incomplete
	}
	// This closes the connection over HTTP/1, and resets only the stream over HTTP/2.
	panic(http.ErrAbortHandler)
}

func (q *httpRequest) logStderr() {
	if len(q.stderr) > 0 {
		q.logf("%s %s: %s", q.r.Method, q.r.URL.Path, q.stderr)
	}
}

// writeHeader writes the response's header, and keeps what a middleware has set. The
// reason phrase is the standard one: net/http writes no other, and HTTP/2 has none.
func (q *httpRequest) writeHeader(resp *Response) {
	h := q.w.Header()
	for name, values := range resp.Header {
		switch {
		case hopByHop[name], strings.HasPrefix(name, accelPrefix):
		case multiValued[name]:
			h[name] = append(h[name], values...)
		default:
			h[name] = values
		}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // net/http would guess a type
	}
	q.w.WriteHeader(resp.StatusCode)
}

// hopByHop are the header fields that are about one connection (RFC 9110, section 7.6.1).
// The server sets its own.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true,
	"Te": true, "Trailer": true, "Upgrade": true,
}

// multiValued are the header fields to which the application's values are added. Of any
// other field, the application's values replace those of a middleware.
var multiValued = map[string]bool{
	"Set-Cookie": true, "Vary": true, "Link": true, "Server-Timing": true, "Via": true, "Www-Authenticate": true,
	"Content-Security-Policy": true, "Content-Security-Policy-Report-Only": true,
}

// Fields with the prefix X-Accel- are for the web server and not for its client. They are
// nginx's.
const (
	accelPrefix    = "X-Accel-"
	accelBuffering = accelPrefix + "Buffering"
)

// isUnbuffered reports whether the response must be sent without delay: by nginx's field
// X-Accel-Buffering, or because it is a stream of events.
func isUnbuffered(resp *Response) bool {
	if strings.EqualFold(resp.Header.Get(accelBuffering), "no") {
		return true
	}
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream")
}
