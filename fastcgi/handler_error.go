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

// retryAfter is what a client is told to wait when all workers are busy, in seconds.
const retryAfter = "5"

// statusFor is what an HTTP client is told of an error.
func statusFor(err error) int {
	var tooLarge *http.MaxBytesError
	var body *BodyError
	var file *TempFileError
	var busy *BusyError
	var refusal ProtocolStatus
	var param *ParamError
	switch {
	case errors.As(err, &param) && (param.Name == "QUERY_STRING" || param.Name == "REQUEST_URI"):
		return http.StatusRequestURITooLong
	case errors.As(err, &param):
		return http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, ErrLengthRequired):
		return http.StatusLengthRequired
	case errors.Is(err, ErrBodyTooLong), errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &body) && isTimeout(err):
		return http.StatusRequestTimeout
	case errors.As(err, &body), errors.Is(err, ErrBodyTooShort):
		return http.StatusBadRequest
	case errors.As(err, &file) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)):
		return http.StatusInsufficientStorage
	case errors.As(err, &file):
		return http.StatusInternalServerError
	case errors.As(err, &busy), errors.As(err, &refusal) && refusal == StatusOverloaded:
		return http.StatusServiceUnavailable
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

func (q *httpRequest) fail(status int, err error) {
	if !clientCanceled(q.r) {
		q.logf("%s %s: %d: %v", q.r.Method, q.r.URL.Path, status, err)
	}
	if status == http.StatusServiceUnavailable {
		q.w.Header().Set("Retry-After", retryAfter)
	}
	q.writeStatus(status)
}

// isGone reports whether the HTTP client has gone, which is no fault to be logged.
func clientCanceled(r *http.Request) bool { return errors.Is(r.Context().Err(), context.Canceled) }

func (h *Handler) logf(format string, args ...any) {
	line := escapeLine(fmt.Sprintf(format, args...))
	if h.ErrorLog != nil {
		h.ErrorLog.Print(line)
		return
	}
	log.Print("fastcgi: " + line)
}

// escape writes what is not printable as Go does: a line of a log is one, whatever a
// client has sent or a script has said, and has nothing in it that a terminal obeys.
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
