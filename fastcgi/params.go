package fastcgi

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// serverParams returns the meta-variables (RFC 3875, section 4.1) of a request that a
// server has received. Scheme and port are those of the connection: in an absolute-form
// request target the client can write others.
func serverParams(r *http.Request, root string, s scriptPath) map[string]string {
	p := scriptParams(r, root, s, requestURI(r))
	setScheme(p, r.TLS != nil)
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ip, port := splitIPPort(addr.String()); ip != "" {
			p["SERVER_ADDR"], p["SERVER_PORT"] = ip, port
		}
	}
	// With an absolute-form target, net/http has set r.Host to the target's host (RFC
	// 9112, section 3.2.2).
	if p["SERVER_NAME"] = hostname(r.Host); r.Host == "" {
		p["SERVER_NAME"] = p["SERVER_ADDR"] // HTTP/1.0
	}
	setRemoteAddr(p, r.RemoteAddr, "") // "" over a unix socket, whose address is "@" or a path
	setHeaderParams(p, r.Host, r.Header)
	return p
}

// transportParams returns the meta-variables of a request that this program makes. Its URL
// is trusted.
func transportParams(r *http.Request, root string, s scriptPath) map[string]string {
	p := scriptParams(r, root, s, r.URL.RequestURI())
	setScheme(p, r.URL.Scheme == "https")
	if port := r.URL.Port(); port != "" {
		p["SERVER_PORT"] = port
	}
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	p["SERVER_NAME"] = hostname(host)
	// REMOTE_ADDR is required (RFC 3875, section 4.1.8). httputil.ReverseProxy passes on
	// its client's RemoteAddr. Any other request comes from this machine.
	setRemoteAddr(p, r.RemoteAddr, "127.0.0.1")
	setHeaderParams(p, host, r.Header)
	return p
}

func scriptParams(r *http.Request, root string, s scriptPath, uri string) map[string]string {
	file := func(name string) string { return filepath.Join(root, filepath.FromSlash(name)) }
	p := paramMaps.Get().(map[string]string)
	p["GATEWAY_INTERFACE"] = "CGI/1.1"
	p["SERVER_SOFTWARE"] = "blocksock-fastcgi"
	p["SERVER_PROTOCOL"] = r.Proto
	p["REQUEST_METHOD"] = requestMethod(r)
	p["REQUEST_URI"] = uri
	p["QUERY_STRING"] = r.URL.RawQuery
	p["DOCUMENT_ROOT"] = root
	p["DOCUMENT_URI"] = s.prefix + s.name + s.pathInfo
	p["SCRIPT_NAME"] = s.prefix + s.name
	p["SCRIPT_FILENAME"] = file(s.name)
	p["REDIRECT_STATUS"] = "200" // required by a php-cgi with cgi.force_redirect
	if p["SERVER_PROTOCOL"] == "" {
		p["SERVER_PROTOCOL"] = "HTTP/1.1"
	}
	if s.pathInfo != "" {
		p["PATH_INFO"] = s.pathInfo
		p["PATH_TRANSLATED"] = file(s.pathInfo)
	}
	// There is no REMOTE_USER, since no one has authenticated the user here. PHP reads
	// HTTP_AUTHORIZATION.
	return p
}

// paramMaps are empty maps for parameters. Each is large enough for most requests.
var paramMaps = sync.Pool{New: func() any { return make(map[string]string, 32) }}

// freeParams makes a map available to other requests. Nothing may use it any more.
func freeParams(p map[string]string) {
	const tooMany = 128 // to be cleared for requests that mostly have fewer
	if len(p) <= tooMany {
		clear(p)
		paramMaps.Put(p)
	}
}

func setScheme(p map[string]string, isTLS bool) {
	p["REQUEST_SCHEME"], p["SERVER_PORT"] = "http", "80"
	if isTLS {
		p["HTTPS"], p["REQUEST_SCHEME"], p["SERVER_PORT"] = "on", "https", "443"
	}
}

func setRemoteAddr(p map[string]string, address, defaultIP string) {
	ip, port := splitIPPort(address)
	if ip == "" {
		ip = defaultIP
	}
	p["REMOTE_ADDR"] = ip
	if port != "" {
		p["REMOTE_PORT"] = port
	}
}

// setHeaderParams sets the meta-variables of the header fields. It goes through the fields
// by name, so that the result does not depend on the order of a map.
func setHeaderParams(p map[string]string, host string, h http.Header) {
	if host != "" {
		p["HTTP_HOST"] = host
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		param, separator := headerParam(http.CanonicalHeaderKey(name)), ", "
		values := h[name]
		if param == "" || len(values) == 0 {
			continue
		}
		previous, exists := p[param] // h may have the name in upper and in lower case
		switch param {
		case "CONTENT_TYPE":
			values = values[:1] // not a list (RFC 9110, section 8.3)
			exists = false
		case "HTTP_COOKIE":
			separator = "; " // RFC 9113, section 8.2.3
		}
		p[param] = strings.Join(values, separator)
		if exists {
			p[param] = previous + separator + p[param]
		}
	}
}

// headerParam returns the meta-variable of a header field with a canonical name, or "" if
// the field is not passed on. A name may have letters, digits and hyphens: PHP and others
// turn further characters into underscores, so that two fields would have one variable.
func headerParam(name string) string {
	switch name {
	case "Content-Type":
		return "CONTENT_TYPE" // RFC 3875, section 4.1.3
	case "", "Content-Length", "Host", "Transfer-Encoding", "Connection":
		return "" // set elsewhere, or about the client's connection
	case "Proxy":
		return "" // HTTP_PROXY is an environment variable (CVE-2016-5385)
	}
	param := append(make([]byte, 0, len("HTTP_")+len(name)), "HTTP_"...)
	for i := range len(name) {
		b := name[i]
		switch {
		case 'a' <= b && b <= 'z':
			b -= 'a' - 'A'
		case 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		case b == '-':
			b = '_'
		default:
			return ""
		}
		param = append(param, b)
	}
	return string(param)
}

func requestMethod(r *http.Request) string {
	if r.Method == "" {
		return http.MethodGet
	}
	return r.Method
}

// requestURI returns the request target as it was received (RFC 9112, section 3.2), without
// scheme and host.
func requestURI(r *http.Request) string {
	target := r.RequestURI
	if target == "" { // the request was made by this program
		u := url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
		return u.RequestURI()
	}
	if strings.HasPrefix(target, "/") {
		return target
	}
	if _, rest, ok := strings.Cut(target, "://"); ok { // absolute-form
		if i := strings.IndexAny(rest, "/?"); i < 0 {
			return "/"
		} else if target = rest[i:]; target[0] == '?' {
			return "/" + target
		}
	}
	return target
}

// hostname returns a host without its port. An IPv6 address keeps its brackets.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

// splitIPPort splits an IP address with or without a port. It removes the zone, which is
// meaningful on this machine only. For anything else, such as the address of a unix
// socket, it returns "".
func splitIPPort(address string) (ip, port string) {
	if h, p, err := net.SplitHostPort(address); err == nil {
		address, port = h, p
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return "", ""
	}
	return a.WithZone("").String(), port
}

// newRequest returns a request without a body.
func newRequest(r *http.Request, params map[string]string) (*Request, error) {
	for name, value := range params {
		if strings.IndexByte(value, 0) >= 0 {
			return nil, fmt.Errorf("fastcgi: parameter %q contains a zero byte", name)
		}
	}
	return &Request{Params: params, Idempotent: isSafe(requestMethod(r))}, nil
}
