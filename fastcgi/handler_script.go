package fastcgi

import (
	"cmp"
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
)

// run has the application answer.
func (q *httpRequest) serveScript(t scriptPath) {
	t.prefix = q.prefix
	root := q.root.path
	switch {
	case q.ScriptRoot != "":
		root = q.ScriptRoot
	case q.ResolveRootSymlink:
		root = q.root.realPath
	}
	params := serverParams(q.r, root, t)
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
	ctx, cancel := context.WithCancel(q.r.Context())
	defer cancel()
	in := &clientBody{Reader: q.r.Body, deadlines: q.deadlines}
	body, err := q.prepareBody(req, in)
	if err != nil {
		q.fail(statusFor(err), err)
		return
	}
	defer body.close()
	resp, err := q.Client.Do(ctx, req)
	if req.interrupt != nil {
		defer q.endStreamedBody(req, resp, err)
	}
	if req.Body == in {
		if q.r.ProtoMajor == 1 && (err != nil || !resp.x.requestSent()) {
			// Lest what is left of the body be taken for the next request. Over HTTP/2
			// this would end all streams.
			q.w.Header().Set("Connection", "close")
		}
		if err != nil && req.interrupt != nil && in.err != nil {
			err = in.err // net/http cancels the request's context as well
		}
	}
	if err != nil {
		q.logStderr()
		q.fail(statusFor(err), err)
		return
	}
	defer resp.Body.Close()
	q.writeResponse(resp, cancel)
}

// body gives a request its body: whole, so that no worker waits for a client, or as it
// comes.
func (q *httpRequest) prepareBody(req *Request, in *clientBody) (bufferedBody, error) {
	length, most := q.r.ContentLength, cmp.Or(q.Client.MaxBufferedBody, DefaultMaxBufferedBody)
	switch {
	case in.Reader == nil || in.Reader == http.NoBody || length == 0:
		return bufferedBody{}, nil
	case length < 0 && most < 0:
		return bufferedBody{}, ErrLengthRequired
	case length > maxInlineBody && (q.StreamBody || most < 0):
		req.Body, req.ContentLength = in, length
		// It is read while there is a response already, but not after the handler has
		// returned. It is closed by endBody: what the server reads itself, after a
		// handler that was allowed this, has it panic (Go 1.26).
		_ = q.deadlines.controller.EnableFullDuplex()
		if q.deadlines.isSupported() {
			req.interrupt = q.deadlines.stopReads
		}
		return bufferedBody{}, nil
	case most < 0:
		most = maxInlineBody
	}
	body, err := bufferBody(in, length, most)
	if err == nil {
		req.Body, req.ContentLength, req.closeBody = body, body.length, body.close
	}
	return body, err
}

// endBody ends the reading of a body that is streamed.
func (q *httpRequest) endStreamedBody(req *Request, resp *Response, err error) {
	if err != nil || !resp.x.requestSent() {
		req.interrupt() // or Close would wait for what is still to come
	}
	_ = q.r.Body.Close()
}

// answer passes a response on.
func (q *httpRequest) writeResponse(resp *Response, cancel func()) {
	q.writeHeader(resp)
	out := &clientWriter{q.w, q.deadlines}
	var err, gone error
	if isUnbuffered(resp) {
		if gone = out.flush(); gone == nil {
			_, err = io.Copy(unbufferedWriter{out}, resp.Body)
		}
		q.logStderr()
	} else {
		b := newResponseBuffer(out, cmp.Or(q.MaxBufferedResponse, DefaultMaxBufferedResponse), cancel, q.logf)
		_, err = io.Copy(b, resp.Body)
		_ = resp.Body.Close() // the worker is free
		q.logStderr()
		gone = b.finish() // which may take as long as the client does
	}
	if err == nil && gone == nil {
		return
	}
	if gone == nil && !clientCanceled(q.r) {
		q.logf("%s %s: %v", q.r.Method, q.r.URL.Path, err)
		_ = out.flush() // a part never passes for the whole, but it is a part
	}
	// This ends the connection over HTTP/1, and the stream alone over HTTP/2.
	panic(http.ErrAbortHandler)
}

func (q *httpRequest) logStderr() {
	if len(q.stderr) > 0 {
		q.logf("%s %s: %s", q.r.Method, q.r.URL.Path, q.stderr)
	}
}

// header writes the response's header beside what middlewares have set. The reason
// phrase is net/http's: it can write no other (and HTTP/2 has none).
func (q *httpRequest) writeHeader(resp *Response) {
	h := q.w.Header()
	for name, values := range resp.Header {
		switch {
		case hopByHop[name], strings.HasPrefix(name, accel):
		case multiValued[name]:
			h[name] = append(h[name], values...)
		default:
			h[name] = values
		}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	q.w.WriteHeader(resp.StatusCode)
}

// ofConnection are header fields that are the server's own (RFC 9110, 7.6.1).
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true,
	"Te": true, "Trailer": true, "Upgrade": true,
}

// isList are header fields of which there may be several, each of which says something
// of its own: those of a middleware stay. Of others there is one, the application's.
var multiValued = map[string]bool{
	"Set-Cookie": true, "Vary": true, "Link": true, "Server-Timing": true, "Via": true, "Www-Authenticate": true,
	"Content-Security-Policy": true, "Content-Security-Policy-Report-Only": true,
}

// accel begins the names of fields that are for the server in front, which this is.
const (
	accel          = "X-Accel-"
	accelBuffering = accel + "Buffering"
)

// isStreamed reports whether an application means what it writes to be passed on at
// once: nginx has the field, and browsers the type.
func isUnbuffered(resp *Response) bool {
	if strings.EqualFold(resp.Header.Get(accelBuffering), "no") {
		return true
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}
