package fastcgi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// A Transport is an http.RoundTripper that sends requests to an application. An http.Client
// with a Transport calls scripts by their URLs, and an httputil.ReverseProxy with one serves
// them. The host of the URL is not used to connect. Unlike Handler, Transport does not
// access the scripts' files.
//
// RoundTrip treats a request as http.Transport does. If ContentLength is 0 and Body is
// neither nil nor http.NoBody, the length is unknown and the body is first copied to a
// temporary file (see Client.MaxBufferedBody). Body is always closed, possibly after
// RoundTrip has returned. The response's Body ends at its Content-Length, and with
// io.ErrUnexpectedEOF if it is shorter. A response to HEAD, or with status 204 or 304, has
// no body. Unlike http.Transport, RoundTrip neither requests nor removes compression, and
// it ignores Request.Cancel.
//
// REMOTE_ADDR is the IP address in the request's RemoteAddr, which httputil.ReverseProxy
// passes on, otherwise 127.0.0.1. HTTPS is set for an https URL.
type Transport struct {
	Client *Client

	// ScriptRoot is the directory of the scripts as the application sees it.
	ScriptRoot string

	// Extensions are the extensions of scripts. Default: .php.
	Extensions []string

	// Fallback is the path of the script for a URL that names no script. Default: such a
	// URL is an error.
	Fallback string
}

// RoundTrip sends a request and returns its response. Its errors are those of Client.Do.
func (tr *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	req, err := tr.newRequest(r)
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
	contentLength, _ := parseContentLength(resp.Header) // Do has returned its error
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		contentLength = 0
	}
	resp.Header.Del("Transfer-Encoding") // the body is not encoded
	return &http.Response{
		Status: strings.TrimRight(fmt.Sprintf("%03d %s", resp.StatusCode, resp.Reason), " "), StatusCode: resp.StatusCode,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: resp.Header, Body: resp.Body, ContentLength: contentLength, Request: r,
	}, nil
}

// newRequest returns the request for the script that the URL names.
func (tr *Transport) newRequest(r *http.Request) (*Request, error) {
	if r.URL == nil {
		return nil, errors.New("fastcgi: request has no URL")
	}
	name := r.URL.Path
	if name == "" {
		name = "/"
	}
	p, status := cleanPath(name)
	s, isScript := splitPathInfo(p, tr.Extensions)
	if status != 0 || isHidden(s.name) {
		return nil, fmt.Errorf("fastcgi: path %q is not allowed: it must begin with a slash and must not contain a line break, a zero byte or a name that begins with a dot", name)
	}
	if !isScript {
		if s, isScript = splitPathInfo(tr.Fallback, tr.Extensions); !isScript {
			return nil, fmt.Errorf("fastcgi: path %q names no script: set Transport.Fallback to the path of a script", name)
		}
	}
	req, err := newRequest(r, transportParams(r, tr.ScriptRoot, s))
	if err != nil {
		return nil, err
	}
	switch {
	case r.Body == nil && r.ContentLength > 0:
		return nil, fmt.Errorf("fastcgi: ContentLength is %d but Body is nil", r.ContentLength)
	case r.Body != nil && r.Body != http.NoBody:
		req.Body, req.ContentLength = r.Body, r.ContentLength
		if r.ContentLength == 0 {
			req.ContentLength = -1
		}
		req.closeBody = func() { _ = r.Body.Close() }
	}
	return req, nil
}
