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

// parseHeader reads a CGI header (RFC 3875, 6.3) with its empty line. It tolerates what
// nginx tolerates: it leaves out lines without a colon and names that HTTP does not
// allow, and makes a space of a control character in a value (RFC 9110, 5.5). A line that
// a reader may divide in another way is an error: one with CR or NUL in it, or one that
// begins with a space.
func parseCGIHeader(p []byte) (status int, reason string, h http.Header, err error) {
	h = make(http.Header)
	var skipped *HeaderError
	for len(p) > 0 {
		line, rest, _ := bytes.Cut(p, []byte("\n"))
		p = rest
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			break
		}
		line = bytes.TrimRight(line, "\r")
		name, value, isField := strings.Cut(string(line), ":")
		switch {
		case bytes.HasPrefix(line, []byte("HTTP/")):
			skipped = &HeaderError{Reason: "a status line, and no field", Line: truncateLine(line)}
			continue
		case name == "" || strings.IndexFunc(name, isSpaceOrControl) >= 0:
			return 0, "", nil, &HeaderError{Reason: "not a field", Line: truncateLine(line)}
		case strings.ContainsAny(value, "\x00\r"):
			return 0, "", nil, &HeaderError{Reason: "not a value", Line: truncateLine(line)}
		case !isField || !isToken(name):
			skipped = &HeaderError{Reason: "not a field", Line: truncateLine(line)}
			continue
		}
		h.Add(name, strings.Trim(replaceControls(value), " "))
	}
	if len(h) == 0 && skipped != nil {
		return 0, "", nil, skipped // not one field: a page without a header, for example
	}
	if status, reason, err = parseStatus(h); err != nil {
		return 0, "", nil, err
	}
	h.Del("Status")
	return status, reason, h, nil
}

// isSpaceOrControl reports whether nginx refuses r in a field's name.
func isSpaceOrControl(r rune) bool { return r == ' ' || isControl(r) }

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func replaceControls(value string) string {
	if strings.IndexFunc(value, isControl) < 0 {
		return value
	}
	p := []byte(value) // not runes: it may be in any encoding
	for i, b := range p {
		if isControl(rune(b)) {
			p[i] = ' '
		}
	}
	return string(p)
}

// statusOf is what the Status field says, or what there is says without it.
func parseStatus(h http.Header) (int, string, error) {
	values := h.Values("Status")
	switch {
	case len(values) == 0 && h.Get("Location") != "":
		return http.StatusFound, http.StatusText(http.StatusFound), nil
	case len(values) == 0:
		return http.StatusOK, http.StatusText(http.StatusOK), nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return 0, "", &HeaderError{Reason: "two of them", Line: "Status"}
		}
	}
	const digits = 3
	code, reason := values[0][:min(digits, len(values[0]))], values[0][min(digits, len(values[0])):]
	n, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != digits || n < 200 || reason != "" && '0' <= reason[0] && reason[0] <= '9' {
		return 0, "", &HeaderError{Reason: "not a status", Line: truncateLine([]byte(values[0]))}
	}
	return int(n), strings.TrimSpace(reason), nil
}

// bodyLength gives the Content-Length of a response, or -1. It removes one that is not a
// number, as nginx does. With two that differ, readers would disagree on where the
// response ends (RFC 9112, 6.3).
func parseContentLength(h http.Header) (int64, error) {
	values := h.Values("Content-Length")
	if len(values) == 0 {
		return -1, nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return 0, &HeaderError{Reason: "two lengths that differ", Line: truncateLine([]byte("Content-Length: " + values[0] + ", " + v))}
		}
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil {
		h.Del("Content-Length")
		return -1, nil
	}
	h.Set("Content-Length", strconv.FormatUint(n, 10))
	return int64(n), nil
}

// isToken reports whether s is a field's name: RFC 9110, 5.6.2.
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		letter := 'a' <= r|0x20 && r|0x20 <= 'z'
		return r >= 0x80 || !letter && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}) < 0
}

func truncateLine(line []byte) string { return string(line[:min(len(line), 64)]) }
