package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"github.com/blocksock/client/internal/sock"
	"github.com/blocksock/client/internal/tlsconn"
	"github.com/blocksock/client/internal/tlsverify"
	"golang.org/x/sys/unix"
)

// TLSOptions configure TLS. The zero value verifies the server's certificate: its chain
// against the system's roots, its name against the host that was dialled. It negotiates
// TLS 1.2 or 1.3.
//
// Dial, StartTLS, NewTCP, NewTCP6 and NewUnix read the files before they connect. A file
// that is replaced is used from the next call on. A file that is missing, empty or malformed
// is an *OptionError with the name of the file. A PEM file (RFC 7468) may have a byte order
// mark, indented lines, line ends of any system, and text between the blocks. No block is
// ignored: a malformed block is an error, and so is one of a kind that the field cannot use,
// such as a revocation list in CAFile.
type TLSOptions struct {
	// ServerName is the host name or IP address that the server's certificate must be for.
	// A host name is also sent to the server (SNI, RFC 6066). Default: Config.ServerName,
	// or else the host that was dialled. It must be set for unix sockets.
	ServerName string

	// CAFile is a PEM file of certificates that a chain may end in, and CAPath is a
	// directory of such files. Files of the directory are read that are named *.pem, *.crt
	// or *.cer, or by openssl-rehash(1). TRUSTED CERTIFICATE blocks of openssl are an
	// error: they have trust settings, which are not supported.
	// Default: Config.RootCAs, or else the system's roots.
	CAFile string
	CAPath string

	// CertFile has the client's certificate and the chain up to its authority, and KeyFile
	// has the private key, both in PEM. Both may name the same file. KeyFile must have
	// exactly one key. The client sends the certificate if the server requests one and
	// accepts its issuer. Passphrase decrypts a key in encrypted PKCS #8 (RFC 5958; AES or
	// 3DES, with scrypt or PBKDF2 by HMAC with SHA-1 or SHA-256) or in the older format of
	// OpenSSL (RFC 1421). Default: Config.Certificates.
	CertFile   string
	KeyFile    string
	Passphrase string

	// AllowSelfSigned also accepts a certificate that is signed with its own key. Its name
	// and its validity are verified as usual. An attacker who can redirect the connection
	// can make such a certificate: this protects against eavesdropping only. To protect
	// against both, name the certificate itself in CAFile.
	AllowSelfSigned bool

	// VerifyDepth is the largest number of certificates between the server's and the root.
	// Default: no limit but that of crypto/x509. Negative: no certificate in between.
	VerifyDepth int

	// CRLFile has certificate revocation lists (RFC 5280, section 5; version 1 or 2), any
	// number in PEM or one in DER. A current list of the issuer of the server's certificate
	// is required. The other certificates of the chain are checked if there is a list of
	// their issuer. A server's certificate that is trusted for itself (it is in CAFile, or
	// self-signed) needs no list. It is checked against one if the certificate of the
	// list's issuer is in CAFile or was sent by the server.
	//
	// A list must be complete. Delta lists, and lists for some kinds of certificates or some
	// reasons, are an error, whether or not their extension is marked critical. A list for
	// one distribution point is complete for the certificates that name its URI for all
	// reasons and with the same issuer. A list that is out of date still revokes the
	// certificates in it, and proves nothing about others. A certificate on hold
	// (certificateHold) is revoked if it is in the newest current list.
	CRLFile string

	// RequireStaple requires a stapled OCSP response (RFC 6066, section 8). Without it a
	// response is required only by a certificate with the TLS feature extension (RFC 7633),
	// and one that the server sends is always checked. The response must have the hashes of
	// the issuer's name and key. It must be signed by the issuer or by the issuer's
	// responder (RFC 6960, section 3.2), whose clock may be up to 5 minutes ahead. It is
	// valid until its nextUpdate, or for a week if it has none.
	RequireStaple bool

	// InsecureSkipVerify accepts any certificate for any name. No other option turns
	// verification off, and this one turns off all of it.
	InsecureSkipVerify bool

	// NextProtos are the protocols to offer (ALPN, RFC 7301), in order of preference.
	// Default: Config.NextProtos. An http.Transport sees the negotiated protocol of
	// DialTLSContext only on connections of type *tls.Conn. Leave out "h2" there. Or offer
	// only "h2" and make UnencryptedHTTP2 the only one of Transport.Protocols, which then
	// uses HTTP/2 from the first byte.
	NextProtos []string

	// MinVersion and MaxVersion are the lowest and the highest version, such as
	// tls.VersionTLS12. Default: Config's, or else 1.2 and the highest of crypto/tls.
	MinVersion uint16
	MaxVersion uint16

	// Config is the base for everything else: cipher suites, curves, KeyLogWriter,
	// callbacks, and a ClientSessionCache, which all dials may share. A session is resumed
	// only with the client certificate and the settings that it was begun with, and never if
	// GetClientCertificate chooses the certificate. Fields above that are set replace those
	// of Config, which is copied and never changed.
	//
	// Its InsecureSkipVerify must be false and its Renegotiation must be RenegotiateNever.
	// VerifyPeerCertificate and VerifyConnection are called after the verification
	// described here has succeeded. DynamicRecordSizingDisabled is always set. If a callback
	// panics or ends its goroutine, so does the method that called it. Dial then closes the
	// connection. On an existing connection later calls fail, and Close releases it.
	Config *tls.Config
}

// A TLSError is the error of a failed TLS handshake. Err is the reason:
//   - *tls.CertificateVerificationError, around an x509 error or a *RevocationError: the
//     certificate is not accepted;
//   - tls.RecordHeaderError: the peer does not speak TLS;
//   - *net.OpError: the peer has sent an alert;
//   - io.ErrUnexpectedEOF or unix.ECONNRESET: the peer has closed the connection;
//   - os.ErrDeadlineExceeded: the handshake was not complete at the limit.
type TLSError struct {
	ServerName string // the name that was to be verified
	Err        error
}

func (e *TLSError) Error() string {
	return fmt.Sprintf("TLS with %q: %v%s", e.ServerName, e.Err, advice(e.Err))
}

func (e *TLSError) Unwrap() error { return e.Err }

// Timeout reports whether the limit was reached before the handshake was complete.
func (e *TLSError) Timeout() bool { return isTimeout(e.Err) }

// Temporary is the same as Timeout.
func (e *TLSError) Temporary() bool { return e.Timeout() }

var _ net.Error = (*TLSError)(nil)

// A RevocationError is the reason why a certificate is not accepted that its issuer has
// revoked, or whose revocation had to be checked and could not be.
type RevocationError struct {
	Certificate *x509.Certificate
	Revoked     bool // false: not known
	Reason      string
}

func (e *RevocationError) Error() string { return (*tlsverify.RevocationError)(e).Error() }

// publicError replaces internal/tlsverify's error about revocation with the one that users
// know. It is always the cause of a *tls.CertificateVerificationError.
func publicError(err error) error {
	var failed *tls.CertificateVerificationError
	var revocation *tlsverify.RevocationError
	if errors.As(err, &failed) && errors.As(failed.Err, &revocation) {
		failed.Err = (*RevocationError)(revocation)
	}
	return err
}

// advice returns what to do about an error, if the text does not say it.
func advice(err error) string {
	var (
		verification *tls.CertificateVerificationError
		unknown      x509.UnknownAuthorityError
		name         x509.HostnameError
		header       tls.RecordHeaderError
		alert        *net.OpError
	)
	switch {
	case errors.As(err, &unknown):
		if errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0 && tlsverify.IsSelfSigned(verification.UnverifiedCertificates[0]) {
			return " (the certificate is self-signed: name it in CAFile, or set AllowSelfSigned to accept every self-signed one)"
		}
		return " (set CAFile or CAPath to the authorities to trust)"
	case errors.As(err, &name):
		return " (set ServerName to the name to expect)"
	case errors.As(err, &header):
		return " (the peer does not speak TLS on this port, or only after a command: see StartTLS)"
	case errors.As(err, &alert) && alert.Op == "remote error": // the Op of crypto/tls for an alert
		return " (the peer refused: check versions, cipher suites, ServerName and client certificate)"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return " (the handshake was not complete at the limit)"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return " (the peer closed during the handshake)"
	}
	return ""
}

var (
	errTLSAlready = fmt.Errorf("the connection uses TLS already: %w", unix.EALREADY)
	errInUse      = fmt.Errorf("another call is in progress: %w", unix.EBUSY)
	errPlaintext  = errors.New("the peer has sent unencrypted bytes that were not received: receive them before StartTLS")
)

// StartTLS begins TLS on a connected stream, as STARTTLS of SMTP and IMAP does: call it
// after the peer's agreement was received and while no other call is in progress. A nil t
// means the defaults. The name to verify is by default the host that was connected to.
// Options.ConnectTimeout, the deadlines, ctx and Close end the call.
//
// Bytes that the peer has sent and that were not received are an error, and the client stays
// as it is: an attacker could have injected them as a part of the encrypted stream. The
// client also stays as it is if it uses TLS already (unix.EALREADY), another call is in
// progress (unix.EBUSY), it is no stream (unix.EOPNOTSUPP) or not connected (unix.ENOTCONN),
// and after an *OptionError. After a *TLSError the client is closed.
func (c *Client) StartTLS(ctx context.Context, t *TLSOptions) error {
	err := c.startTLS(ctx, t)
	if err != nil {
		err = c.opError(opStartTLS, nil, err)
	}
	c.closeAfterTLSError(err)
	return err
}

// closeAfterTLSError closes a client whose handshake has failed. After the first byte of a
// handshake the connection cannot be used for anything else.
func (c *Client) closeAfterTLSError(err error) {
	var failed *TLSError
	if errors.As(err, &failed) {
		c.closeFor(err)
	}
}

func (c *Client) startTLS(ctx context.Context, t *TLSOptions) error {
	switch {
	case c.sock != nil && !c.typ.isStream():
		return unix.EOPNOTSUPP
	case ctx.Err() != nil:
		return contextError(ctx, sock.ErrStopped)
	}
	if err := c.begin(0, 0, true); err != nil {
		return err
	}
	defer c.lease.decref()
	c.lease.markAltered() // a pool must not reuse it as a plain connection
	if t == nil {
		t = &TLSOptions{}
	}
	until := deadline(ctx, c.limits().connect)
	conf, err := t.load()
	if err != nil {
		return err
	}
	if conf, err = conf.forHost(c.host); err != nil {
		return err
	}
	return c.secure(ctx, conf, until, dialTrace(ctx, c.ownTrace()), func(rd, wr sock.IOLock) error {
		switch {
		case c.hasTLS():
			return errTLSAlready
		case c.buffered() > 0:
			return errPlaintext
		case rd.Expired() || wr.Expired():
			return os.ErrDeadlineExceeded
		}
		switch n, err := rd.Recv(make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT); {
		case n > 0:
			return errPlaintext
		case !errors.Is(err, unix.EAGAIN):
			return &TLSError{ServerName: conf.base.ServerName, Err: noEOF(err)}
		}
		return nil
	})
}

// secure makes the handshake if check permits it, which may be nil.
func (c *Client) secure(ctx context.Context, conf *tlsConfig, until sock.Instant, t *Trace, check func(rd, wr sock.IOLock) error) error {
	returned := false
	defer func() {
		if !returned { // a callback of Config has panicked
			c.closeFor(errNoReturn)
		}
	}()
	err := c.traceTLS(t, conf.base.ServerName, func() error {
		rd, wr, err := c.lockBoth(until)
		if err != nil {
			return err
		}
		defer rd.Unlock()
		defer wr.Unlock()
		if check != nil {
			if err := check(rd, wr); err != nil {
				return err
			}
		}
		return c.handshake(ctx, conf, rd, wr)
	})
	returned = true
	return err
}

func (c *Client) lockBoth(until sock.Instant) (rd, wr sock.IOLock, err error) {
	rd, wr, ok := c.sock.TryLockBoth(until)
	switch {
	case ok:
	case c.sock.Closed():
		err = net.ErrClosed
	default:
		err = errInUse
	}
	return rd, wr, err
}

// handshake puts TLS between the client and its socket.
func (c *Client) handshake(ctx context.Context, conf *tlsConfig, rd, wr sock.IOLock) error {
	// Not Close: that is up to the caller.
	unwatch := context.AfterFunc(ctx, c.sock.Stop)
	returned := false
	defer func() {
		if !returned { // a callback of Config has panicked
			unwatch()
			_ = c.sock.Close()
		}
	}()
	config, accepted := conf.forConn()
	addrs := c.addrs.Load()
	t, err := tlsconn.Handshake(ctx, c.sock, rd, wr, addrs.local, addrs.remote, config)
	if keys, ok := config.KeyLogWriter.(*keyLog); ok {
		keys.ended.rethrow()
	}
	returned = true
	if unwatch() {
		err = c.stopped(err)
	} else {
		err = sock.ErrStopped
	}
	if err != nil {
		return &TLSError{ServerName: config.ServerName, Err: contextError(ctx, publicError(noEOF(err)))}
	}
	t.VerifiedChains = accepted()
	c.tls.Store(t)
	// The goroutine of tlsconn.Conn.UnlockSend uses the socket while it waits for the peer, which
	// keeps the socket's finalizer from running. The addressing is reachable as long as a
	// client, a pool or a RawConn of Options.Control has the connection.
	runtime.AddCleanup(c.addressing, (*sock.Socket).Finalize, c.sock)
	return nil
}

// noEOF returns the error of a handshake during which the stream ended.
func noEOF(err error) error {
	if errors.Is(err, tlsconn.ErrTruncated) || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ConnectionState returns what the handshake has negotiated: version, cipher suite,
// protocol, certificates. For a client without TLS it is the zero value. See tls.Conn.
func (c *Client) ConnectionState() tls.ConnectionState {
	return c.connectionState()
}

// A tlsNetConn is a client with TLS as a Dialer returns it. Like *tls.Conn it is no
// syscall.Conn. Some drivers, go-redis for one, peek at the descriptor of an idle connection
// that is one. They take a session ticket for unexpected data, and close the connection or
// read without a limit.
//
// Read returns io.EOF where that of *tls.Conn does: also if the peer closes the connection
// between two records without close_notify. Many servers do that, and drivers and net/http
// rely on io.EOF there. The stream may have been truncated (RFC 8446, 6.1), which Recv and
// Read of a Client report as io.ErrUnexpectedEOF.
type tlsNetConn struct {
	*Client
	noSyscallConn
}

func (c tlsNetConn) Read(p []byte) (int, error) {
	n, err := c.Client.Read(p)
	if err == io.ErrUnexpectedEOF && !c.truncated() { //nolint:errorlint // Read does not wrap it
		err = io.EOF
	}
	return n, err
}

// A noSyscallConn has a method with the name of one of Client's. Two embedded methods of the same
// name and depth hide each other (Go specification, Selectors), so tlsNetConn has neither.
type noSyscallConn struct{}

// SyscallConn hides that of Client.
func (noSyscallConn) SyscallConn() {}

var (
	_ net.Conn = tlsNetConn{}
	_          = noSyscallConn.SyscallConn
)
