package dtls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"

	"github.com/pion/dtls/v3/pkg/protocol/alert"
	"github.com/pion/logging"
)

// An ending is a logger for pion that logs nothing. It learns which alert has ended the
// connection, which pion reports in no other way: its Read returns io.EOF after a fatal alert,
// too, and only close_notify is the orderly end that io.EOF means.
type ending struct {
	silent
	err atomic.Pointer[error]
}

// endings are the alerts that end a connection, by the texts that pion logs.
var endings = func() map[string]error {
	all := make(map[string]error)
	for i := range 256 {
		a := alert.Alert{Level: alert.Fatal, Description: alert.Description(i)}
		err := remoteError(a.Description)
		if _, ambiguous := all[a.String()]; ambiguous { // those that pion does not know
			err = &net.OpError{Op: "remote error", Err: errors.New("fatal alert of an unknown kind")}
		}
		all[a.String()] = err
	}
	for _, level := range []alert.Level{alert.Warning, alert.Fatal} {
		a := alert.Alert{Level: level, Description: alert.CloseNotify}
		all[a.String()] = io.EOF
	}
	return all
}()

// remoteError returns the error that crypto/tls has for a fatal alert.
func remoteError(d alert.Description) error {
	return &net.OpError{Op: "remote error", Err: tls.AlertError(d)}
}

// receivedAlert returns the error for an alert that pion returns as its error, or nil.
func receivedAlert(err error) error {
	var received interface { // alertError, which pion does not export
		error
		Marshal() ([]byte, error)
	}
	if !errors.As(err, &received) {
		return nil
	}
	encoded, err := received.Marshal()
	if err != nil || len(encoded) != 2 {
		return nil
	}
	return remoteError(alert.Description(encoded[1]))
}

// NewLogger returns the one logger for each part of pion.
func (e *ending) NewLogger(string) logging.LeveledLogger { return e }

// Tracef is called for each alert, with its text as the last argument.
func (e *ending) Tracef(_ string, args ...any) {
	if len(args) == 0 {
		return
	}
	text, _ := args[len(args)-1].(string)
	if err, ok := endings[text]; ok {
		e.err.CompareAndSwap(nil, &err)
	}
}

// cause returns why the connection has ended.
func (e *ending) cause() error {
	if err := e.err.Load(); err != nil {
		return *err
	}
	return io.ErrUnexpectedEOF
}

// silent is a logger that logs nothing.
type silent struct{}

func (silent) Trace(string)          {}
func (silent) Debug(string)          {}
func (silent) Debugf(string, ...any) {}
func (silent) Info(string)           {}
func (silent) Infof(string, ...any)  {}
func (silent) Warn(string)           {}
func (silent) Warnf(string, ...any)  {}
func (silent) Error(string)          {}
func (silent) Errorf(string, ...any) {}
