package fastcgi

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
)

// paramsOf are the meta-variables of a request for a script: RFC 3875, 4.1, and what
// php-fpm wants beside them.
func paramsOf(r *http.Request, root string, t target) map[string]string {
	file := func(name string) string { return filepath.Join(root, filepath.FromSlash(name)) }
	uri := r.RequestURI
	if uri == "" { // of a client's request
		uri = r.URL.RequestURI()
	}
	p := map[string]string{
		"GATEWAY_INTERFACE": "CGI/1.1",
		"SERVER_SOFTWARE":   "blocksock-fastcgi",
		"SERVER_PROTOCOL":   r.Proto,
		"REQUEST_METHOD":    method(r),
		"REQUEST_URI":       uri,
		"QUERY_STRING":      r.URL.RawQuery,
		"DOCUMENT_ROOT":     root,
		"DOCUMENT_URI":      t.name + t.info,
		"SCRIPT_NAME":       t.name,
		"SCRIPT_FILENAME":   file(t.name),
		"REDIRECT_STATUS":   "200", // a php-cgi that was built to want it
		"REQUEST_SCHEME":    "http",
	}
	if p["SERVER_PROTOCOL"] == "" {
		p["SERVER_PROTOCOL"] = "HTTP/1.1"
	}
	if t.info != "" {
		p["PATH_INFO"] = t.info
		p["PATH_TRANSLATED"] = file(t.info)
	}
	port := "80"
	if r.TLS != nil || r.URL.Scheme == "https" {
		p["HTTPS"], p["REQUEST_SCHEME"] = "on", "https"
		port = "443"
	}
	p["SERVER_NAME"], p["SERVER_PORT"] = hostPort(hostOf(r), port)
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		p["SERVER_ADDR"], p["SERVER_PORT"] = hostPort(addr.String(), p["SERVER_PORT"])
	}
	if r.RemoteAddr != "" {
		p["REMOTE_ADDR"], p["REMOTE_PORT"] = hostPort(r.RemoteAddr, "")
	}
	// No REMOTE_USER: nobody here has verified who it is. PHP reads HTTP_AUTHORIZATION.
	if v := r.Header.Get("Content-Type"); v != "" {
		p["CONTENT_TYPE"] = v
	}
	p["HTTP_HOST"] = hostOf(r)
	for name, values := range r.Header {
		if variable := variableOf(name); variable != "" {
			separator := ", "
			if variable == "HTTP_COOKIE" {
				separator = "; " // RFC 9113, 8.2.3
			}
			p[variable] = strings.Join(values, separator)
		}
	}
	return p
}

// variableOf is the name of a header field's variable, or empty for one that is not
// passed on.
func variableOf(name string) string {
	switch name {
	case "Content-Type", "Content-Length", "Host", "Transfer-Encoding", "Connection":
		return "" // they have their own, or are about this connection
	case "Proxy":
		return "" // HTTP_PROXY is a variable of the environment: CVE-2016-5385
	}
	variable := []byte("HTTP_" + name)
	for i, b := range variable {
		switch {
		case 'a' <= b && b <= 'z':
			variable[i] = b - 'a' + 'A'
		case b == '-':
			variable[i] = '_'
		case b == '_' && i >= len("HTTP_"):
			return "" // which would pass for one with a hyphen
		}
	}
	return string(variable)
}

func method(r *http.Request) string {
	if r.Method == "" {
		return http.MethodGet
	}
	return r.Method
}

func hostOf(r *http.Request) string {
	if r.Host == "" {
		return r.URL.Host
	}
	return r.Host
}

func hostPort(address, port string) (string, string) {
	if h, p, err := net.SplitHostPort(address); err == nil {
		return h, p
	}
	return strings.Trim(address, "[]"), port
}

// requestOf is the request for a script.
func requestOf(r *http.Request, root string, t target) (*Request, error) {
	p := paramsOf(r, root, t)
	for name, value := range p {
		if strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("fastcgi: %s has a zero byte", name)
		}
	}
	req := &Request{Params: p}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		req.Body, req.ContentLength = r.Body, r.ContentLength
	}
	switch method(r) {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace: // RFC 9110, 9.2.1
		req.Repeatable = true
	}
	return req, nil
}
