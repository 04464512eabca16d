// Package header finds the end of a header of lines, as HTTP and CGI have it.
package header

import "bytes"

// End returns the index after the empty line that ends the header at the beginning of p, or -1
// if that line is not in p. A line ends with LF or CRLF (RFC 9112, section 2.2; RFC 3875,
// section 6.3). The first searched bytes were in an earlier call that returned -1.
func End(p []byte, searched int) int {
	for _, empty := range []string{"\n", "\r\n"} {
		if bytes.HasPrefix(p, []byte(empty)) {
			return len(empty)
		}
	}
	for i := max(searched-3, 0); i < len(p); i++ {
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
