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
	"golang.org/x/sys/unix"
)

// TLSOptions are how a client does TLS. The zero value verifies the server's
// certificate, its chain against the system's roots and its name against the
// host dialled, and speaks TLS 1.2 and 1.3.
//
// Files are read by each Dial and StartTLS, and by NewTCP and its kin, before
// anything is connected: one that is replaced counts from the next on, one that
// is missing, empty or malformed is an *OptionError with the file's name. A PEM
// file (RFC 7468) may have a byte order mark, indented lines, the line ends of any
// system, and text between its blocks. No block is ignored: a malformed one, and one
// that the field has no use for, such as a revocation list in CAFile, is an error.
type TLSOptions struct {
	// ServerName is the name or IP address that the server's certificate has to
	// be for, and the name that is sent to the server (SNI, RFC 6066; an address
	// is not sent). Default: Config's, or else the host as it was dialled. A unix
	// socket has none, so one has to be given.
	ServerName string

	// CAFile and CAPath name the certificates that a chain may end in, instead of
	// the system's: a file with one or more in PEM, and a directory of such
	// files. Of a directory the files count that end in .pem, .crt or .cer or are
	// named as openssl-rehash(1) does. openssl's TRUSTED CERTIFICATE is refused: it
	// has trust settings, which are not supported. Default: Config's RootCAs, or else the system's.
	CAFile string
	CAPath string

	// CertFile and KeyFile are the client's own certificate, with the chain to
	// its CA, and the private key, in PEM. Both may name one file that has all of
	// it. KeyFile must have one key. The client sends the certificate to a server that
	// requests one of its issuer's. Passphrase opens a key that is encrypted, as PKCS #8
	// (RFC 5958; AES or 3DES, with scrypt or PBKDF2 by HMAC with SHA-1 or SHA-256)
	// or in the older way of OpenSSL (RFC 1421). Default: Config's Certificates.
	CertFile   string
	KeyFile    string
	Passphrase string

	// AllowSelfSigned accepts, besides what has a chain to a root, a certificate
	// that is signed by its own key. Name and dates have to be right as ever.
	// Whoever can redirect the connection can make such a certificate: this
	// protects from listening in, and from nothing else. CAFile with the
	// certificate itself protects from both.
	AllowSelfSigned bool

	// VerifyDepth is the largest number of certificates between the server's and
	// the root. Zero is no limit but that of crypto/x509, negative is none at all.
	VerifyDepth int

	// CRLFile has revocation lists, in PEM or one in DER (RFC 5280, 5; version 1 or
	// 2). There has to be one, in date, from the issuer of the server's certificate;
	// the certificates above it are looked up too if there is a list of their issuer.
	// A server's certificate that is trusted for itself, being in CAFile or
	// self-signed, needs no list, but one that has it is believed if the issuer's
	// certificate is in CAFile too or comes along.
	//
	// A list must be complete. Delta lists and lists for some kinds of certificates or
	// some reasons are refused, whether or not their extension is marked critical. A
	// list for one distribution point counts as complete for the certificates that name
	// its URI for all reasons and for lists of their own issuer. A certificate in a list that
	// is out of date is revoked; a certificate that is not in it may be. A certificate that is
	// only held (certificateHold) is revoked if the newest current list has it.
	CRLFile string

	// RequireStaple insists on an OCSP answer from the server (RFC 6066, 8). One
	// that the server sends by itself has to be good in any case, and one has to
	// come if the certificate says so (RFC 7633). The answer must have
	// the hashes of the issuer's name and key and be signed by the issuer or by its
	// responder (RFC 6960, 3.2). The responder's clock may be up to 5 minutes ahead. The
	// answer is valid until its nextUpdate, or for a week if it has none.
	RequireStaple bool

	// InsecureSkipVerify accepts any certificate for any name. It is the only way
	// to turn verification off, and turns off all of it.
	InsecureSkipVerify bool

	// NextProtos are the protocols to offer (ALPN, RFC 7301), most wanted first.
	// Default: Config's. On what http.Transport.DialTLSContext gives, the transport
	// sees what was agreed on connections of crypto/tls's own type alone: leave "h2"
	// out, or offer nothing else and have UnencryptedHTTP2 as the only one of
	// Transport.Protocols, which then speaks HTTP/2 from the first byte.
	NextProtos []string

	// MinVersion and MaxVersion are the versions to speak, tls.VersionTLS12 and
	// so on. Default: Config's, or else 1.2 and the newest that crypto/tls has.
	MinVersion uint16
	MaxVersion uint16

	// Config is the base for all else: cipher suites, curves, KeyLogWriter,
	// callbacks, and session resumption by a ClientSessionCache, which all dials
	// may share: a session is resumed only with the client certificate and the
	// rules that it was begun with, and not at all if GetClientCertificate says
	// which certificate that is. Fields above that are set take the place of
	// Config's. It is copied and never changed.
	//
	// Its InsecureSkipVerify has to be false and its Renegotiation never. Its
	// VerifyPeerCertificate and VerifyConnection come on top of the verification
	// here, and after it. Records are always of the full size:
	// DynamicRecordSizingDisabled is set. If a callback panics or ends its goroutine, so does
	// the method that called it. A Dial then leaves no connection behind. Later calls on an
	// existing connection fail, and Close frees it.
	Config *tls.Config
}

// A TLSError is a TLS handshake that failed. Err is the reason: a
// *tls.CertificateVerificationError, with the x509 error or *RevocationError in
// it, for a certificate that is not accepted; tls.RecordHeaderError for a peer
// that speaks something else; a *net.OpError with the peer's alert; io.ErrUnexpectedEOF,
// unix.ECONNRESET or os.ErrDeadlineExceeded for a peer that goes away or does
// not answer.
type TLSError struct {
	ServerName string // the name that the peer had to prove
	Err        error
}

func (e *TLSError) Error() string {
	return fmt.Sprintf("TLS with %q: %v%s", e.ServerName, e.Err, advice(e.Err))
}

func (e *TLSError) Unwrap() error { return e.Err }

// Timeout reports whether the limit was over before the handshake was.
func (e *TLSError) Timeout() bool { return isTimeout(e.Err) }

// Temporary is the same as Timeout.
func (e *TLSError) Temporary() bool { return e.Timeout() }

// advice is what to do about an error, where that is not plain from its text.
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
		if errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0 && signsItself(verification.UnverifiedCertificates[0]) {
			return " (it is self-signed: CAFile can name the certificate itself, AllowSelfSigned accepts any such)"
		}
		return " (CAFile and CAPath name the authorities to trust)"
	case errors.As(err, &name):
		return " (ServerName is the name to expect)"
	case errors.As(err, &header):
		return " (the peer does not speak TLS here, or not yet: see StartTLS)"
	case errors.As(err, &alert) && alert.Op == "remote error": // as crypto/tls calls an alert
		return " (the peer refused: look at versions, cipher suites, ServerName and client certificate)"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return " (the handshake was not over at the limit)"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return " (the peer closed during the handshake)"
	}
	return ""
}

var (
	errTLSAlready = fmt.Errorf("the stream has TLS: %w", unix.EALREADY)
	errInUse      = fmt.Errorf("another call is under way: %w", unix.EBUSY)
	errTalkative  = errors.New("the peer sent bytes before TLS, which nobody has received: they are not part of what TLS protects")
)

// StartTLS makes TLS of a stream that is connected, as STARTTLS in SMTP, IMAP
// and their kin has it: after the peer's agreement has been received, and with
// no other call under way. A nil t is the defaults; the name to verify is then
// the host that was connected to. Options.ConnectTimeout, the deadlines, ctx and
// Close end it.
//
// Bytes that the peer has sent and nobody has received are an error, and the
// client is left as it is: taken for a part of the encrypted conversation they
// would be an attacker's way into it. So is a client that has TLS already
// (unix.EALREADY), is in use by another call (unix.EBUSY), has no stream
// (unix.EOPNOTSUPP) or no peer (unix.ENOTCONN), and an *OptionError. After every
// other error, a *TLSError, the client is closed.
func (c *Client) StartTLS(ctx context.Context, t *TLSOptions) error {
	err := c.startTLS(ctx, t)
	if err != nil {
		err = c.failed(opStartTLS, nil, err)
	}
	c.closeIfHalfSecured(err)
	return err
}

// closeIfHalfSecured closes a client whose handshake has failed: from its first
// byte on there is nothing else the connection is good for.
func (c *Client) closeIfHalfSecured(err error) {
	var failed *TLSError
	if errors.As(err, &failed) {
		_ = c.sock.Close()
	}
}

func (c *Client) startTLS(ctx context.Context, t *TLSOptions) error {
	switch {
	case c.sock != nil && !c.typ.isStream():
		return unix.EOPNOTSUPP
	case ctx.Err() != nil:
		return contextual(ctx, sock.ErrStopped)
	}
	if err := c.begin(0, 0, true); err != nil {
		return err
	}
	defer c.end()
	c.note.altered() // for a pool: nobody who asks for a plain one gets it
	if t == nil {
		t = &TLSOptions{}
	}
	until := deadline(ctx, c.limits.connect)
	sec, err := t.security()
	if err != nil {
		return err
	}
	if sec, err = sec.expecting(c.host); err != nil {
		return err
	}
	rd, wr, err := c.bothTurns(until)
	if err != nil {
		return err
	}
	defer rd.Unlock()
	defer wr.Unlock()
	switch {
	case c.tls.Load() != nil:
		return errTLSAlready
	case c.packets.buffered() > 0:
		return errTalkative
	case rd.Expired() || wr.Expired():
		return os.ErrDeadlineExceeded
	}
	switch n, err := rd.Recv(make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT); {
	case n > 0:
		return errTalkative
	case !errors.Is(err, unix.EAGAIN):
		return &TLSError{ServerName: sec.config.ServerName, Err: noEOF(err)}
	}
	return c.handshake(ctx, sec, rd, wr)
}

// secure is startTLS for a connection that is new and has nothing to lose yet.
func (c *Client) secure(ctx context.Context, sec *security, until sock.Instant) error {
	rd, wr, err := c.bothTurns(until)
	if err != nil {
		return err
	}
	defer rd.Unlock()
	defer wr.Unlock()
	return c.handshake(ctx, sec, rd, wr)
}

func (c *Client) bothTurns(until sock.Instant) (rd, wr sock.IOLock, err error) {
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
func (c *Client) handshake(ctx context.Context, sec *security, rd, wr sock.IOLock) error {
	// Not Close, which is the caller's to say.
	unwatch := context.AfterFunc(ctx, c.sock.Stop)
	over := false
	defer func() {
		if !over { // a callback of Config has panicked
			unwatch()
			_ = c.sock.Close()
		}
	}()
	config, verified := sec.forOne()
	t, err := newTLSStream(ctx, c, config, rd, wr)
	over = true
	if unwatch() {
		err = c.stopped(err)
	} else {
		err = sock.ErrStopped
	}
	if err != nil {
		return &TLSError{ServerName: config.ServerName, Err: contextual(ctx, noEOF(err))}
	}
	t.chains = verified()
	c.tls.Store(t)
	c.sock.Upgrade()
	// The goroutine of tlsStream.leave uses the socket while it waits for the peer, which
	// keeps the socket's finalizer from running. The addressing is reachable as long as a
	// client, a pool or a RawConn of Options.Control has the connection.
	runtime.AddCleanup(c.addressing, (*sock.Socket).Finalize, c.sock)
	return nil
}

// noEOF is the error of a handshake in whose midst the stream ended.
func noEOF(err error) error {
	if errors.Is(err, errCut) || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ConnectionState is what the handshake has settled: version, cipher suite,
// protocol, certificates. It is the zero value for a client without TLS. See
// tls.Conn.
func (c *Client) ConnectionState() tls.ConnectionState {
	t := c.tls.Load()
	if t == nil {
		return tls.ConnectionState{}
	}
	state := t.conn.ConnectionState()
	state.VerifiedChains = t.chains
	return state
}

// A tlsConn is a client with TLS as drivers know it, from a Dialer: as crypto/tls's Conn
// is none, it is no syscall.Conn. go-redis, for one, peeks at the descriptor of an idle
// connection that has one. A session ticket is to it an answer that nobody has asked for,
// and it throws the connection away, or reads, without a limit, what it is about.
//
// Its Read returns io.EOF where that of crypto/tls does: also if the peer closes the
// connection between two records without close_notify. Many servers do that, and drivers
// and net/http rely on io.EOF there. The stream may have been truncated (RFC 8446, 6.1),
// which Recv and Read of a Client report as io.ErrUnexpectedEOF.
type tlsConn struct {
	*Client
	concealed
}

func (c tlsConn) Read(p []byte) (int, error) {
	n, err := c.Client.Read(p)
	if err == io.ErrUnexpectedEOF && !c.tls.Load().cut.Load() { //nolint:errorlint // it comes bare
		err = io.EOF
	}
	return n, err
}

// A concealed has a method of the same name as one of Client's. Beside each other they
// hide each other (Go specification, Selectors), and tlsConn has neither.
type concealed struct{}

// SyscallConn is in the way.
func (concealed) SyscallConn() {}

var (
	_ net.Conn = tlsConn{}
	_          = concealed.SyscallConn
)
