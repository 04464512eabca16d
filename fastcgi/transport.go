package fastcgi

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// A Transport is an http.RoundTripper whose requests an application answers: an
// http.Client of it reaches scripts by their URLs, whatever the host in them. Where
// Handler looks at files, it does not: Root is the application's.
type Transport struct {
	Client *Client

	// Root is the directory of the scripts, as the application has it.
	Root string

	// Extensions are those of scripts. Default: .php.
	Extensions []string

	// Script is the path of the script for URLs that name none. Default: such are an
	// error.
	Script string
}

// RoundTrip answers a request.
func (tr *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := tr.roundTrip(r)
	if err != nil && r.Body != nil {
		_ = r.Body.Close()
	}
	return resp, err
}

func (tr *Transport) roundTrip(r *http.Request) (*http.Response, error) {
	name := r.URL.Path
	if name == "" {
		name = "/"
	}
	p, refused := clean(name)
	t, script := split(p, tr.Extensions)
	if refused != 0 || hidden(t.name) {
		return nil, fmt.Errorf("fastcgi: a path that may not be: %q", name)
	}
	if !script {
		if t, script = split(tr.Script, tr.Extensions); !script {
			return nil, fmt.Errorf("fastcgi: no script in %q", name)
		}
	}
	req, err := requestOf(r, tr.Root, t)
	if err != nil {
		return nil, err
	}
	resp, err := tr.Client.Do(r.Context(), req)
	if err != nil {
		return nil, err
	}
	if r.Body != nil { // http.RoundTripper: it is closed here, in any case
		done := resp.x.done
		resp.x.done = sync.OnceFunc(func() { done(); _ = r.Body.Close() })
	}
	length := int64(-1)
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		length = n
	}
	return &http.Response{
		Status: fmt.Sprintf("%03d %s", resp.StatusCode, resp.Reason), StatusCode: resp.StatusCode,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: resp.Header, Body: resp.Body, ContentLength: length, Request: r,
	}, nil
}
