package fastcgi

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// headerEnd is where the header of a response ends, behind its empty line, or -1.
// Lines end in LF, with CR or without.
func headerEnd(p []byte, from int) int {
	for _, empty := range []string{"\n", "\r\n"} {
		if bytes.HasPrefix(p, []byte(empty)) {
			return len(empty)
		}
	}
	for i := max(from-3, 0); i < len(p); i++ {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 {
			return -1
		}
		i += n
		switch rest := p[i+1:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return i + 2
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return i + 3
		}
	}
	return -1
}

// parseHeader reads a CGI header (RFC 3875, 6.3) with its empty line. Nothing is
// forgiven: what one reader takes for a field another may take for a body.
func parseHeader(p []byte) (status int, reason string, h http.Header, err error) {
	h = make(http.Header)
	for len(p) > 0 {
		line, rest, _ := bytes.Cut(p, []byte("\n"))
		p = rest
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			break
		}
		name, value, ok := strings.Cut(string(line), ":")
		value = strings.Trim(value, " \t")
		switch {
		case !ok || !isToken(name):
			return 0, "", nil, &HeaderError{Reason: "not a field", Line: short(line)}
		case !isValue(value):
			return 0, "", nil, &HeaderError{Reason: "not a value", Line: short(line)}
		}
		h.Add(name, value)
	}
	if status, reason, err = statusOf(h); err != nil {
		return 0, "", nil, err
	}
	h.Del("Status")
	return status, reason, h, nil
}

// statusOf is what the Status field says, or what there is says without it.
func statusOf(h http.Header) (int, string, error) {
	values := h.Values("Status")
	switch {
	case len(h) == 0:
		return 0, "", &HeaderError{Reason: "none"}
	case len(values) > 1:
		return 0, "", &HeaderError{Reason: "two of them", Line: "Status"}
	case len(values) == 0 && h.Get("Location") != "":
		return http.StatusFound, http.StatusText(http.StatusFound), nil
	case len(values) == 0:
		return http.StatusOK, http.StatusText(http.StatusOK), nil
	}
	code, reason, _ := strings.Cut(values[0], " ")
	n, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || n < 200 {
		return 0, "", &HeaderError{Reason: "not a status", Line: short([]byte(values[0]))}
	}
	return n, reason, nil
}

// isToken reports whether s is a field's name: RFC 9110, 5.6.2.
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		letter := 'a' <= r|0x20 && r|0x20 <= 'z'
		return r >= 0x80 || !letter && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}) < 0
}

// isValue reports whether s is a field's value: RFC 9110, 5.5.
func isValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func short(line []byte) string { return string(line[:min(len(line), 64)]) }
