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
)

// handlerParams are the meta-variables (RFC 3875, 4.1) of a request that a server has
// received. The scheme and the port are those of the connection. An absolute-form
// request target names others, which anybody can write there.
func serverParams(r *http.Request, root string, t scriptPath) map[string]string {
	p := scriptParams(r, root, t, requestURI(r))
	setScheme(p, r.TLS != nil)
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ip, port := splitIPPort(addr.String()); ip != "" {
			p["SERVER_ADDR"], p["SERVER_PORT"] = ip, port
		}
	}
	// net/http has replaced Host by the target's (RFC 9112, 3.2.2).
	if p["SERVER_NAME"] = hostname(r.Host); r.Host == "" {
		p["SERVER_NAME"] = p["SERVER_ADDR"] // HTTP/1.0
	}
	setRemoteAddr(p, r.RemoteAddr, "") // "" for a unix socket, whose address is "@" or a path
	setHeaderParams(p, r.Host, r.Header)
	return p
}

// transportParams are those of a request that this process makes: its URL is ours.
func transportParams(r *http.Request, root string, t scriptPath) map[string]string {
	p := scriptParams(r, root, t, r.URL.RequestURI())
	setScheme(p, r.URL.Scheme == "https")
	if port := r.URL.Port(); port != "" {
		p["SERVER_PORT"] = port
	}
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	p["SERVER_NAME"] = hostname(host)
	// RFC 3875, 4.1.8: REMOTE_ADDR is required. httputil.ReverseProxy passes on its
	// client's; any other request comes from this machine.
	setRemoteAddr(p, r.RemoteAddr, "127.0.0.1")
	setHeaderParams(p, host, r.Header)
	return p
}

func scriptParams(r *http.Request, root string, t scriptPath, uri string) map[string]string {
	file := func(name string) string { return filepath.Join(root, filepath.FromSlash(name)) }
	p := map[string]string{
		"GATEWAY_INTERFACE": "CGI/1.1",
		"SERVER_SOFTWARE":   "blocksock-fastcgi",
		"SERVER_PROTOCOL":   r.Proto,
		"REQUEST_METHOD":    requestMethod(r),
		"REQUEST_URI":       uri,
		"QUERY_STRING":      r.URL.RawQuery,
		"DOCUMENT_ROOT":     root,
		"DOCUMENT_URI":      t.prefix + t.name + t.pathInfo,
		"SCRIPT_NAME":       t.prefix + t.name,
		"SCRIPT_FILENAME":   file(t.name),
		"REDIRECT_STATUS":   "200", // a php-cgi that was built to want it
	}
	if p["SERVER_PROTOCOL"] == "" {
		p["SERVER_PROTOCOL"] = "HTTP/1.1"
	}
	if t.pathInfo != "" {
		p["PATH_INFO"] = t.pathInfo
		p["PATH_TRANSLATED"] = file(t.pathInfo)
	}
	// No REMOTE_USER: nobody here has verified who it is. PHP reads HTTP_AUTHORIZATION.
	return p
}

func setScheme(p map[string]string, tls bool) {
	p["REQUEST_SCHEME"], p["SERVER_PORT"] = "http", "80"
	if tls {
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

// setHeaders sets the variables of the header's fields. Their order is that of the
// names, so that it is the same each time.
func setHeaderParams(p map[string]string, host string, h http.Header) {
	if host != "" {
		p["HTTP_HOST"] = host
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		variable, separator := headerParam(http.CanonicalHeaderKey(name)), ", "
		values := h[name]
		if variable == "" || len(values) == 0 {
			continue
		}
		before, again := p[variable] // the same name in other letters
		switch variable {
		case "CONTENT_TYPE":
			values = values[:1] // not a list: RFC 9110, 8.3
			again = false
		case "HTTP_COOKIE":
			separator = "; " // RFC 9113, 8.2.3
		}
		p[variable] = strings.Join(values, separator)
		if again {
			p[variable] = before + separator + p[variable]
		}
	}
}

// variableOf is the variable of a header field with a canonical name, or empty for one
// that is not passed on. PHP, like others, makes an underscore of more characters than
// the hyphen: a name with any of those would pass for another.
func headerParam(name string) string {
	switch name {
	case "Content-Type":
		return "CONTENT_TYPE" // RFC 3875, 4.1.3
	case "", "Content-Length", "Host", "Transfer-Encoding", "Connection":
		return "" // they have their own, or are about this connection
	case "Proxy":
		return "" // HTTP_PROXY is a variable of the environment: CVE-2016-5385
	}
	variable := append(make([]byte, 0, len("HTTP_")+len(name)), "HTTP_"...)
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
		variable = append(variable, b)
	}
	return string(variable)
}

func requestMethod(r *http.Request) string {
	if r.Method == "" {
		return http.MethodGet
	}
	return r.Method
}

// requestPath is the request target without a scheme and a host, as it was received
// (RFC 9112, 3.2).
func requestURI(r *http.Request) string {
	target := r.RequestURI
	if target == "" { // a request that the program has made
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

// hostname is a host without its port. An IPv6 address keeps its brackets.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

// ipPort divides an IP address with a port or without one. A zone is of no use to
// anybody but this machine. All else, as the address of a unix socket, is no address.
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

// requestOf is the request that a Transport makes for a script.
func requestOf(r *http.Request, root string, t scriptPath) (*Request, error) {
	req, err := newRequest(r, transportParams(r, root, t))
	if err == nil && r.Body != nil && r.Body != http.NoBody {
		req.Body, req.ContentLength = r.Body, r.ContentLength
		if r.ContentLength == 0 { // unknown, as http.Request.ContentLength says
			req.ContentLength = -1
		}
	}
	return req, err
}

// newRequest is a request without its body.
func newRequest(r *http.Request, p map[string]string) (*Request, error) {
	for name, value := range p {
		if strings.IndexByte(value, 0) >= 0 {
			return nil, fmt.Errorf("fastcgi: the parameter %q has a zero byte", name)
		}
	}
	req := &Request{Params: p}
	switch requestMethod(r) {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace: // RFC 9110, 9.2.1
		req.Idempotent = true
	}
	return req, nil
}
