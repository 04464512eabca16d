package fastcgi

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// parseCGIHeader parses a CGI header (RFC 3875, section 6.3) with its empty line. It
// tolerates what nginx tolerates: it skips a line without a colon or with a name that HTTP
// does not allow, and replaces control characters in a value by spaces (RFC 9110, section
// 5.5). A line that another reader may split differently is an error: one that contains CR
// or NUL, and one that begins with a space.
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
			skipped = &HeaderError{Reason: "a status line instead of a Status field", Line: truncateLine(line)}
			continue
		case name == "" || strings.IndexFunc(name, isSpaceOrControl) >= 0:
			return 0, "", nil, &HeaderError{Reason: "malformed field name", Line: truncateLine(line)}
		case strings.ContainsAny(value, "\x00\r"):
			return 0, "", nil, &HeaderError{Reason: "CR or NUL in a field value", Line: truncateLine(line)}
		case !isField || !isToken(name):
			skipped = &HeaderError{Reason: "malformed field", Line: truncateLine(line)}
			continue
		}
		h.Add(name, strings.Trim(replaceControls(value), " "))
	}
	if len(h) == 0 && skipped != nil {
		return 0, "", nil, skipped // there is no field at all, as in a page without a header
	}
	if status, reason, err = parseStatus(h); err != nil {
		return 0, "", nil, err
	}
	h.Del("Status")
	return status, reason, h, nil
}

// isSpaceOrControl reports whether nginx rejects r in a field name.
func isSpaceOrControl(r rune) bool { return r == ' ' || isControl(r) }

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func replaceControls(value string) string {
	if strings.IndexFunc(value, isControl) < 0 {
		return value
	}
	p := []byte(value) // bytes, not runes: the value may have any encoding
	for i, b := range p {
		if isControl(rune(b)) {
			p[i] = ' '
		}
	}
	return string(p)
}

// parseStatus parses the Status field. Without one, the status is 302 if there is a
// Location field, otherwise 200.
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
			return 0, "", &HeaderError{Reason: "two Status fields that differ", Line: truncateLine([]byte("Status: " + values[0] + ", " + v))}
		}
	}
	const digits = 3
	code, reason := values[0][:min(digits, len(values[0]))], values[0][min(digits, len(values[0])):]
	n, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != digits || n < 200 || reason != "" && '0' <= reason[0] && reason[0] <= '9' {
		return 0, "", &HeaderError{Reason: "malformed Status", Line: truncateLine([]byte(values[0]))}
	}
	return int(n), strings.TrimSpace(reason), nil
}

// parseContentLength returns the Content-Length of a response, or -1. It removes a
// Content-Length that is not a number, as nginx does. Two that differ are an error: readers
// would disagree on where the response ends (RFC 9112, section 6.3).
func parseContentLength(h http.Header) (int64, error) {
	values := h.Values("Content-Length")
	if len(values) == 0 {
		return -1, nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return 0, &HeaderError{Reason: "two Content-Length fields that differ", Line: truncateLine([]byte("Content-Length: " + values[0] + ", " + v))}
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

// isToken reports whether s is a field name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		isLetter := 'a' <= r|0x20 && r|0x20 <= 'z'
		return r >= 0x80 || !isLetter && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}) < 0
}

// truncateLine returns the start of a line, for HeaderError.Line.
func truncateLine(line []byte) string { return string(line[:min(len(line), 64)]) }
