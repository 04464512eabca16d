package fastcgi

import (
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
	// The names and values are parts of one string, and the values are in one array.
	text := string(p)
	lines := strings.Count(text, "\n")
	h, values := make(http.Header, lines), make([]string, 0, lines)
	var skipped *HeaderError
	for len(text) > 0 {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			break
		}
		line = strings.TrimRight(line, "\r")
		name, value, isField := strings.Cut(line, ":")
		switch {
		case strings.HasPrefix(line, "HTTP/"):
			skipped = &HeaderError{Reason: "a status line instead of a Status field", Line: truncateLine(line)}
			continue
		case name == "" || strings.Contains(name, " ") || indexControl(name) >= 0: // nginx rejects it
			return 0, "", nil, &HeaderError{Reason: "malformed field name", Line: truncateLine(line)}
		case strings.ContainsAny(value, "\x00\r"):
			return 0, "", nil, &HeaderError{Reason: "CR or NUL in a field value", Line: truncateLine(line)}
		case !isField || !isToken(name):
			skipped = &HeaderError{Reason: "malformed field", Line: truncateLine(line)}
			continue
		}
		name, value = http.CanonicalHeaderKey(name), strings.Trim(replaceControls(value), " ")
		if previous := h[name]; previous != nil {
			h[name] = append(previous, value)
			continue
		}
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	if len(h) == 0 && skipped != nil {
		return 0, "", nil, skipped // there is no field at all, as in a page without a header
	}
	if status, reason, err = parseStatus(h); err != nil {
		return 0, "", nil, err
	}
	delete(h, "Status")
	return status, reason, h, nil
}

// indexControl returns the index of the first control character, or -1.
func indexControl(s string) int {
	for i := range len(s) {
		if isControl(s[i]) {
			return i
		}
	}
	return -1
}

func isControl(b byte) bool { return b < ' ' || b == 0x7f }

func replaceControls(value string) string {
	if indexControl(value) < 0 {
		return value
	}
	p := []byte(value) // bytes, not runes: the value may have any encoding
	for i, b := range p {
		if isControl(b) {
			p[i] = ' '
		}
	}
	return string(p)
}

// parseStatus parses the Status field. Without one, the status is 302 if there is a
// Location field, otherwise 200.
func parseStatus(h http.Header) (int, string, error) {
	values := h["Status"]
	switch {
	case len(values) == 0 && h.Get("Location") != "":
		return http.StatusFound, http.StatusText(http.StatusFound), nil
	case len(values) == 0:
		return http.StatusOK, http.StatusText(http.StatusOK), nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return 0, "", &HeaderError{Reason: "two Status fields that differ", Line: truncateLine("Status: " + values[0] + ", " + v)}
		}
	}
	const digits = 3
	code, reason := values[0][:min(digits, len(values[0]))], values[0][min(digits, len(values[0])):]
	n, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != digits || n < 200 || reason != "" && '0' <= reason[0] && reason[0] <= '9' {
		return 0, "", &HeaderError{Reason: "malformed Status", Line: truncateLine(values[0])}
	}
	return int(n), strings.TrimSpace(reason), nil
}

// parseContentLength returns the Content-Length of a response, or -1. It removes a
// Content-Length that is not a number, as nginx does. Two that differ are an error: readers
// would disagree on where the response ends (RFC 9112, section 6.3).
func parseContentLength(h http.Header) (int64, error) {
	values := h["Content-Length"]
	if len(values) == 0 {
		return -1, nil
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return 0, &HeaderError{Reason: "two Content-Length fields that differ", Line: truncateLine("Content-Length: " + values[0] + ", " + v)}
		}
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil {
		h.Del("Content-Length")
		return -1, nil
	}
	if len(values) > 1 || values[0][0] == '0' {
		h.Set("Content-Length", strconv.FormatUint(n, 10))
	}
	return int64(n), nil
}

// isToken reports whether s is a field name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		b := s[i]
		isLetter := 'a' <= b|0x20 && b|0x20 <= 'z'
		if !isLetter && (b < '0' || b > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", b) < 0 {
			return false
		}
	}
	return s != ""
}

// truncateLine returns the start of a line, for HeaderError.Line.
func truncateLine[T string | []byte](line T) string { return string(line[:min(len(line), 64)]) }
