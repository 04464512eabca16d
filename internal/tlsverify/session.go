package tlsverify

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// A sessionCache is the caller's session cache as one connection uses it. To a server the
// client that resumes a session is the one that began it, and crypto/tls stores sessions by
// the server's name alone. So the keys here have a prefix for each client certificate and
// set of settings. A session also ends when the validity of its server's chain does.
type sessionCache struct {
	cache  tls.ClientSessionCache
	prefix string
	now    func() time.Time

	until time.Time // the end of the sessions to be stored
	key   string    // of the last Get
}

// sessionCache returns the cache for one connection. It is nil if there is none, or if
// GetClientCertificate chooses a certificate that is not known before the handshake.
func (v *Verifier) sessionCache(config *tls.Config, now func() time.Time) *sessionCache {
	if config.ClientSessionCache == nil || config.GetClientCertificate != nil {
		return nil
	}
	id := sha256.New()
	c := &v.config
	_, _ = fmt.Fprintf(id, "%t %t %t %d\n", c.InsecureSkipVerify, c.AllowSelfSigned, c.RequireStaple, c.VerifyDepth)
	for _, pair := range config.Certificates {
		_, _ = fmt.Fprintf(id, "%x\n", pair.Certificate)
	}
	return &sessionCache{cache: config.ClientSessionCache, prefix: fmt.Sprintf("%x ", id.Sum(nil)[:16]), now: now}
}

// Get returns a session that is still valid.
func (s *sessionCache) Get(key string) (*tls.ClientSessionState, bool) {
	s.key = key
	session, ok := s.cache.Get(s.prefix + key)
	if !ok || session == nil {
		return nil, false
	}
	if _, state, err := session.ResumptionState(); err != nil || state == nil || s.now().After(validUntil(state)) {
		s.forget()
		return nil, false
	}
	return session, true
}

// Put stores a session with its end.
func (s *sessionCache) Put(key string, session *tls.ClientSessionState) {
	if session == nil {
		s.cache.Put(s.prefix+key, nil)
		return
	}
	ticket, state, err := session.ResumptionState()
	if err != nil || state == nil {
		return
	}
	if !s.until.IsZero() {
		end := binary.BigEndian.AppendUint64(slices.Clone(untilMark), uint64(s.until.Unix()))
		state.Extra = append(state.Extra, end)
		if session, err = tls.NewResumptionState(ticket, state); err != nil {
			return
		}
	}
	s.cache.Put(s.prefix+key, session)
}

// forget removes the session that was looked up last.
func (s *sessionCache) forget() { s.cache.Put(s.prefix+s.key, nil) }

// untilMark begins the bytes in SessionState.Extra that Put has added. Others may add more.
var untilMark = []byte("github.com/blocksock/client until ")

// validUntil returns the end that Put has given a session.
func validUntil(state *tls.SessionState) time.Time {
	for _, extra := range state.Extra {
		if rest, ok := bytes.CutPrefix(extra, untilMark); ok && len(rest) == 8 {
			return time.Unix(int64(binary.BigEndian.Uint64(rest)), 0)
		}
	}
	return time.Unix(1<<40, 0) // begun with InsecureSkipVerify: nothing was verified that could end
}
