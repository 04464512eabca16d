package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A TruncatedError is the error of a receive whose buffer was too small for the
// datagram. The buffer holds the first Got bytes, and the call returns that count. The
// kernel has dropped the rest. errors.Is reports io.ErrShortBuffer for it.
type TruncatedError struct {
	Size int // the size of the datagram in bytes
	Got  int // the number of bytes received
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("datagram of %d bytes truncated to %d: use a larger buffer", e.Size, e.Got)
}

func (e *TruncatedError) Unwrap() error { return io.ErrShortBuffer }

// An ICMPError is an ICMP error message about a datagram that was sent before (RFC 792,
// RFC 4443), on a client with Options.ICMPErrors. It is not about the call that returns
// it. errors.Is finds the kernel's error: unix.ECONNREFUSED if the port is closed,
// unix.EHOSTUNREACH, unix.EMSGSIZE.
type ICMPError struct {
	Type, Code uint8          // of the message; zero if this machine reports the error
	To         netip.AddrPort // the destination of the datagram
	By         netip.Addr     // the sender of the message
	MTU        int            // in bytes, if the datagram was too long
	Err        unix.Errno
}

func (e *ICMPError) Error() string {
	return fmt.Sprintf("datagram to %v: %v (reported by %v: ICMP type %d, code %d)", e.To, e.Err, e.By, e.Type, e.Code)
}

// Unwrap returns Err.
func (e *ICMPError) Unwrap() error { return e.Err }

// An OptionError is the error of an option whose value cannot be used.
type OptionError struct {
	Option string // the field of Options, such as "NoDelay" or "TLS.CAFile"
	Reason string
	Err    error // the cause, such as that of a file that cannot be read; may be nil
}

func (e *OptionError) Error() string { return "option " + e.Option + ": " + e.Reason }

func (e *OptionError) Unwrap() error { return e.Err }

// A DialError is the cause of a failed Dial or Connect that tried several addresses. Errs
// has one error per address, in the order of the attempts. If the limit was over before
// all addresses of the name were known, one more error is about the name. errors.Is and
// errors.As search all of them.
type DialError struct {
	Errs []*net.OpError
}

func (e *DialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "all %d addresses failed", len(e.Errs))
	for i, err := range e.Errs {
		b.WriteString([...]string{": ", "; "}[min(i, 1)])
		fmt.Fprintf(&b, "%v: %v", err.Addr, err.Err)
	}
	return b.String()
}

// Unwrap returns Errs.
func (e *DialError) Unwrap() []error {
	errs := make([]error, len(e.Errs))
	for i, err := range e.Errs {
		errs[i] = err
	}
	return errs
}

// Timeout reports whether one of the errors is a timeout, of the call or of the kernel.
func (e *DialError) Timeout() bool {
	return slices.ContainsFunc(e.Errs, (*net.OpError).Timeout)
}

// Temporary is the same as Timeout.
func (e *DialError) Temporary() bool { return e.Timeout() }

// SafeToRetry reports whether the kernel had certainly accepted no byte of a request when
// err occurred. The request can then be sent again on another connection without being
// carried out twice.
//
// It is true for errors of Dial, Connect and Bind. It is true for errors of Send, Write
// and SendTo if neither that call nor an earlier one on the client had sent a byte. It is
// false for every other error: after a failed receive it is unknown what the peer has
// done.
//
// A client does not know where a later request begins. For a client that has sent other
// requests, use the count that Send returned with the error.
func SafeToRetry(err error) bool {
	// Not errors.As: an error joined with a failed dial may be about another request.
	for ; err != nil; err = errors.Unwrap(err) {
		switch e := err.(type) { //nolint:errorlint // the loop unwraps
		case interface{ SafeToRetry() bool }:
			return e.SafeToRetry()
		case *net.OpError:
			if e.Op == opDial || e.Op == opConnect || e.Op == opBind {
				return true
			}
		}
	}
	return false
}

// The operations as errors name them.
const (
	opDial     = "dial"
	opConnect  = "connect"
	opBind     = "bind"
	opSend     = "send"
	opRecv     = "recv"
	opSendTo   = "sendto"
	opRecvFrom = "recvfrom"
	opRead     = "read"
	opWrite    = "write"
	opClose    = "close"
	opSet      = "set"
	opRaw      = "raw"
	opNew      = "socket"
	opStartTLS = "starttls"

	opDrain       = "drain"
	opRecvPacket  = "recvpacket"
	opSendPacket  = "sendpacket"
	opSendFile    = "sendfile"
	opSendBuffers = "sendbuffers"
	opReadFrom    = "readfrom"
	opSelect      = "select"
	opAsync       = "async"
	opInfo        = "tcpinfo"

	opRecvBatch    = "recvbatch"
	opSendBatch    = "sendbatch"
	opSendSegments = "sendsegments"
)

// An unsentError marks the error of a call of which the kernel accepted nothing.
type unsentError struct{ error }

func (e unsentError) Unwrap() error     { return e.error }
func (e unsentError) SafeToRetry() bool { return true }
func (e unsentError) Timeout() bool     { return isTimeout(e.error) }
func (e unsentError) Temporary() bool   { return isTimeout(e.error) }

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// A timeoutError is the timeout of a context or of the resolver. errors.Is finds both the
// cause and os.ErrDeadlineExceeded.
type timeoutError struct{ cause error }

func (e *timeoutError) Error() string        { return e.cause.Error() }
func (e *timeoutError) Unwrap() error        { return e.cause }
func (e *timeoutError) Timeout() bool        { return true }
func (e *timeoutError) Temporary() bool      { return true }
func (e *timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// An unresolvedAddr is an address that was not resolved, as the caller wrote it.
type unresolvedAddr struct{ network, address string }

func (a unresolvedAddr) Network() string { return a.network }
func (a unresolvedAddr) String() string  { return a.address }
