package fastcgi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// A Transport is an http.RoundTripper whose requests an application answers: an
// http.Client of it reaches scripts by their URLs, whatever the host in them, and an
// httputil.ReverseProxy of it serves them. Where Handler looks at files, it does not:
// Root is the application's.
//
// RoundTrip treats a request as net/http's own Transport does. ContentLength 0 with a
// Body that is neither nil nor http.NoBody is an unknown length: the body is copied to a
// temporary file first, see Client.MaxBufferedBody. Body is closed in any case, perhaps after
// RoundTrip has returned. The answer's body ends at its Content-Length, and with
// io.ErrUnexpectedEOF if it is shorter. Answers to HEAD and answers with the statuses 204
// and 304 have no body. Unlike net/http's, RoundTrip neither asks for compression nor
// undoes it, and ignores Request.Cancel.
//
// REMOTE_ADDR is the host of the request's RemoteAddr, which a ReverseProxy passes on,
// or 127.0.0.1. HTTPS is set for https URLs.
type Transport struct {
	Client *Client

	// ScriptRoot is the directory of the scripts, as the application has it.
	ScriptRoot string

	// Extensions are those of scripts. Default: .php.
	Extensions []string

	// Fallback is the path of the script for URLs that name none. Default: such are an
	// error.
	Fallback string
}

// RoundTrip answers a request. Errors are those of Client.Do.
func (tr *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	req, err := tr.requestOf(r)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	resp, err := tr.Client.Do(r.Context(), req)
	if err != nil {
		return nil, err
	}
	length, _ := parseContentLength(resp.Header) // Do has looked at it
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		length = 0
	}
	resp.Header.Del("Transfer-Encoding") // the body is not encoded
	return &http.Response{
		Status: strings.TrimRight(fmt.Sprintf("%03d %s", resp.StatusCode, resp.Reason), " "), StatusCode: resp.StatusCode,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: resp.Header, Body: resp.Body, ContentLength: length, Request: r,
	}, nil
}

// requestOf is the request for the script that a URL names.
func (tr *Transport) requestOf(r *http.Request) (*Request, error) {
	if r.URL == nil {
		return nil, errors.New("fastcgi: the request has no URL")
	}
	name := r.URL.Path
	if name == "" {
		name = "/"
	}
	p, refused := cleanPath(name)
	t, script := splitPathInfo(p, tr.Extensions)
	if refused != 0 || isHidden(t.name) {
		return nil, fmt.Errorf("fastcgi: a path that may not be: %q", name)
	}
	if !script {
		if t, script = splitPathInfo(tr.Fallback, tr.Extensions); !script {
			return nil, fmt.Errorf("fastcgi: no script in %q", name)
		}
	}
	req, err := requestOf(r, tr.ScriptRoot, t)
	if err != nil {
		return nil, err
	}
	// A request's URL counts, not the fields that a server set, which a ReverseProxy
	// leaves in its request.
	req.Params["REQUEST_URI"] = r.URL.RequestURI()
	if r.URL.Scheme == "https" {
		req.Params["HTTPS"], req.Params["REQUEST_SCHEME"] = "on", "https"
	}
	if req.Params["REMOTE_ADDR"] == "" {
		req.Params["REMOTE_ADDR"] = "127.0.0.1" // RFC 3875, 4.1.8: it is never absent
	}
	req.Body, req.ContentLength = nil, 0
	switch {
	case r.Body == nil && r.ContentLength > 0:
		return nil, fmt.Errorf("fastcgi: ContentLength is %d, and there is no Body", r.ContentLength)
	case r.Body != nil && r.Body != http.NoBody:
		req.Body, req.ContentLength = r.Body, r.ContentLength
		if r.ContentLength == 0 {
			req.ContentLength = -1
		}
		req.closeBody = func() { _ = r.Body.Close() }
	}
	return req, nil
}
