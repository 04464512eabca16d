package fastcgi

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strconv"
	"strings"
	"syscall"
)

// retryAfter is the Retry-After field of a 503, in seconds.
const retryAfter = "5"

// statusFor returns the status of an error.
func statusFor(err error) int {
	var maxBytesErr *http.MaxBytesError
	var bodyErr *BodyError
	var fileErr *TempFileError
	var busyErr *BusyError
	var protocolStatus ProtocolStatus
	var paramErr *ParamError
	switch {
	case errors.As(err, &paramErr) && (paramErr.Name == "QUERY_STRING" || paramErr.Name == "REQUEST_URI"):
		return http.StatusRequestURITooLong
	case errors.As(err, &paramErr):
		return http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, ErrLengthRequired):
		return http.StatusLengthRequired
	case errors.Is(err, ErrBodyTooLong), errors.As(err, &maxBytesErr):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &bodyErr) && isTimeout(err):
		return http.StatusRequestTimeout
	case errors.As(err, &bodyErr), errors.Is(err, ErrBodyTooShort):
		return http.StatusBadRequest
	case errors.As(err, &fileErr) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)):
		return http.StatusInsufficientStorage
	case errors.As(err, &fileErr):
		return http.StatusInternalServerError
	case errors.As(err, &busyErr), errors.As(err, &protocolStatus) && protocolStatus == StatusOverloaded:
		return http.StatusServiceUnavailable
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// fail logs err and writes a response that consists of a status.
func (q *httpRequest) fail(status int, err error) {
	if !isCanceled(q.r) {
		q.logf("%s %s: %d: %v", q.r.Method, q.r.URL.Path, status, err)
	}
	if status == http.StatusServiceUnavailable {
		q.w.Header().Set("Retry-After", retryAfter)
	}
	q.writeStatus(status)
}

// isCanceled reports whether the HTTP client has closed its connection or canceled its
// request, which is not an error to log.
func isCanceled(r *http.Request) bool { return errors.Is(r.Context().Err(), context.Canceled) }

// writeStatus writes a response that consists of a status.
func (q *httpRequest) writeStatus(status int) {
	q.closeUnreadBody()
	http.Error(q.w, http.StatusText(status), status)
}

func (q *httpRequest) notFound() {
	q.closeUnreadBody()
	http.NotFound(q.w, q.r)
}

// closeUnreadBody must be called before a response to a request whose body has not been
// read. Over HTTP/1, net/http reads up to 256 KiB of such a body without a timeout before it
// writes the header, unless the connection is to be closed. Then it reads after the
// response, and startRead has set the deadline for that.
func (q *httpRequest) closeUnreadBody() {
	if q.r.Body == nil || q.r.Body == http.NoBody || !q.deadlines.startRead() {
		return
	}
	if q.r.ProtoMajor == 1 {
		q.w.Header().Set("Connection", "close")
	}
}

func (h *Handler) logf(format string, args ...any) {
	line := escapeLine(fmt.Sprintf(format, args...))
	if h.ErrorLog != nil {
		h.ErrorLog.Print(line)
		return
	}
	log.Print("fastcgi: " + line)
}

// escapeLine escapes unprintable characters as Go does. So a log entry is one line and
// contains no terminal control sequence, whatever a client has sent or a script has
// written.
func escapeLine(s string) string {
	s = strings.TrimRight(s, "\r\n")
	if strings.IndexFunc(s, isEscaped) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\uFFFD' && !strings.HasPrefix(s[i:], "\uFFFD"): // a byte that is not UTF-8
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case isEscaped(r) && r != '\uFFFD':
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func isEscaped(r rune) bool { return r == '\uFFFD' || !strconv.IsPrint(r) }
