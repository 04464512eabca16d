package client

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// A sessions is the caller's cache of sessions as one connection sees it. Who
// resumes a session is, to the server, whom it was begun with, and crypto/tls
// files sessions by the server's name alone: so each client certificate gets
// names of its own, and so does each set of rules. What made the session's server
// acceptable has an end, and the session has it too.
type sessions struct {
	cache tls.ClientSessionCache
	whose string
	now   func() time.Time

	until time.Time // of what is put
	asked string    // the name last looked for
}

// sessions gives the cache for one connection, or nil if there is none, or if
// nobody can say which certificate the client is going to show.
func (s *security) sessions() *sessions {
	c := s.config
	if c.ClientSessionCache == nil || c.GetClientCertificate != nil {
		return nil
	}
	id := sha256.New()
	v := &s.verifier
	_, _ = fmt.Fprintf(id, "%t %t %t %d\n", s.off, v.selfSigned, v.staple, v.depth)
	for _, pair := range c.Certificates {
		_, _ = fmt.Fprintf(id, "%x\n", pair.Certificate)
	}
	now := time.Now
	if c.Time != nil {
		now = c.Time
	}
	return &sessions{cache: c.ClientSessionCache, whose: fmt.Sprintf("%x ", id.Sum(nil)[:16]), now: now}
}

// Get gives a session that is still good.
func (s *sessions) Get(name string) (*tls.ClientSessionState, bool) {
	s.asked = name
	session, ok := s.cache.Get(s.whose + name)
	if !ok || session == nil {
		return nil, false
	}
	if _, state, err := session.ResumptionState(); err != nil || state == nil || s.now().After(goodUntil(state)) {
		s.forget()
		return nil, false
	}
	return session, true
}

// Put keeps a session, with its end.
func (s *sessions) Put(name string, session *tls.ClientSessionState) {
	if session == nil {
		s.cache.Put(s.whose+name, nil)
		return
	}
	ticket, state, err := session.ResumptionState()
	if err != nil || state == nil {
		return
	}
	if !s.until.IsZero() {
		limit := binary.BigEndian.AppendUint64(slices.Clone(limitMark), uint64(s.until.Unix()))
		state.Extra = append(state.Extra, limit)
		if session, err = tls.NewResumptionState(ticket, state); err != nil {
			return
		}
	}
	s.cache.Put(s.whose+name, session)
}

// forget drops the session that was looked for.
func (s *sessions) forget() { s.cache.Put(s.whose+s.asked, nil) }

// limitMark says whose the bytes in SessionState.Extra are, which others may use.
var limitMark = []byte("github.com/blocksock/client until ")

// goodUntil is the end that Put has given a session.
func goodUntil(state *tls.SessionState) time.Time {
	for _, extra := range state.Extra {
		if rest, ok := bytes.CutPrefix(extra, limitMark); ok && len(rest) == 8 {
			return time.Unix(int64(binary.BigEndian.Uint64(rest)), 0)
		}
	}
	return time.Unix(1<<40, 0) // it was not verified, by who does not verify
}
