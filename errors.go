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
// datagram. What fitted is in the buffer and counted by the call; the rest is
// gone, as the kernel has it. errors.Is(err, io.ErrShortBuffer) is true for it.
type TruncatedError struct {
	Size int // the datagram's true size in bytes
	Got  int // how many of them fitted
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("datagram of %d bytes cut to %d", e.Size, e.Got)
}

func (e *TruncatedError) Unwrap() error { return io.ErrShortBuffer }

// An ICMPError is what somebody on the way has said of a datagram that was sent (RFC
// 792, RFC 4443), on a client with Options.ICMPErrors. It is not about the call that
// it is the error of. errors.Is finds the kernel's word for it: unix.ECONNREFUSED
// where the port is closed, unix.EHOSTUNREACH, unix.EMSGSIZE.
type ICMPError struct {
	Type, Code uint8          // as the message has them; zero if this machine says so itself
	To         netip.AddrPort // whom the datagram was for
	By         netip.Addr     // who says so
	MTU        int            // bytes that would have passed, if it was too long
	Err        unix.Errno
}

func (e *ICMPError) Error() string {
	return fmt.Sprintf("what was sent to %v: %v, says %v (ICMP type %d, code %d)", e.To, e.Err, e.By, e.Type, e.Code)
}

// Unwrap gives the kernel's error.
func (e *ICMPError) Unwrap() error { return e.Err }

// An OptionError names a field of Options whose value cannot be used, and why.
type OptionError struct {
	Option string
	Reason string
	Err    error // the cause, where there is one: of a file that cannot be read, say
}

func (e *OptionError) Error() string { return "option " + e.Option + ": " + e.Reason }

func (e *OptionError) Unwrap() error { return e.Err }

// A DialError is the cause of a failed Dial or Connect that tried more than one
// address: one error per address, in the order in which they were started, and the last
// one about the name, where the limit was over before all its addresses were known.
// errors.Is and errors.As find what any of them holds.
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

// Unwrap gives the errors of the addresses.
func (e *DialError) Unwrap() []error {
	errs := make([]error, len(e.Errs))
	for i, err := range e.Errs {
		errs[i] = err
	}
	return errs
}

// Timeout reports whether an address failed by a timeout: the limit of the call,
// or the kernel's own.
func (e *DialError) Timeout() bool {
	return slices.ContainsFunc(e.Errs, (*net.OpError).Timeout)
}

// Temporary is the same as Timeout.
func (e *DialError) Temporary() bool { return e.Timeout() }

// SafeToRetry reports whether err is certain to have come before any byte of a
// request was accepted by the kernel, so that the request can be sent again,
// over another connection, without being carried out twice.
//
// It is true for the errors of Dial, Connect and Bind, and for those of Send,
// Write and SendTo if not one byte had been accepted on that client, by that
// call or an earlier one. It is false for every other error: after a failed
// receive nobody knows what the peer has done.
//
// Where a later request begins on a client that has sent others, a client
// cannot know: bytes that have been received may be the answer to the last, or
// not. Who does know looks at the count that came with the error.
func SafeToRetry(err error) bool {
	// Not errors.As: what was joined with a failed dial may be anything.
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

	opRecvPacket = "recvpacket"
	opSendPacket = "sendpacket"
	opSendFile   = "sendfile"
	opReadFrom   = "readfrom"
	opSelect     = "select"
	opInfo       = "tcpinfo"

	opRecvBatch    = "recvbatch"
	opSendBatch    = "sendbatch"
	opSendSegments = "sendsegments"
)

// unsent marks the error of a call that handed nothing to the kernel.
type unsent struct{ error }

func (e unsent) Unwrap() error     { return e.error }
func (e unsent) SafeToRetry() bool { return true }
func (e unsent) Timeout() bool     { return isTimeout(e.error) }
func (e unsent) Temporary() bool   { return isTimeout(e.error) }

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// A limitError is a time limit that ended something which has an error of its
// own for that: a context, or the resolver. It is both errors.
type limitError struct{ cause error }

func (e *limitError) Error() string        { return e.cause.Error() }
func (e *limitError) Unwrap() error        { return e.cause }
func (e *limitError) Timeout() bool        { return true }
func (e *limitError) Temporary() bool      { return true }
func (e *limitError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// A target is an address that was not resolved, as the caller wrote it.
type target struct{ network, address string }

func (t target) Network() string { return t.network }
func (t target) String() string  { return t.address }
