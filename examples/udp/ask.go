package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/blocksock/client"
	"golang.org/x/net/dns/dnsmessage"
)

// An asker asks questions over one connected socket.
type asker struct {
	wait   time.Duration // for the answer to a first try; each other waits twice as long as the last
	tries  int
	window int // questions that wait for their answers at once
}

// maxAnswer is the size of an answer that passes nearly every network unfragmented. The
// questions tell the server so (RFC 6891, 6.2.3; DNS Flag Day 2020).
const maxAnswer = 1232

// maxWindow leaves half of the 65,536 IDs to choose from.
const maxWindow = 1 << 15

// ask asks all the questions and notes their answers, until each has one or was asked often
// enough.
func (a *asker) ask(ctx context.Context, address string, questions []*question) error {
	// The tries have their own times, which are deadlines of the socket.
	c, err := client.DialContext(ctx, "udp", address, &client.Options{RecvTimeout: -1, GRO: true})
	if err != nil {
		return err
	}
	defer c.Close()
	defer c.Watch(ctx)()

	room := make([]client.Datagram, 32)
	for i := range room {
		room[i].Buf = make([]byte, maxAnswer)
	}
	waiting := make(map[uint16]*question)
	for len(questions) > 0 || len(waiting) > 0 {
		for len(questions) > 0 && len(waiting) < a.window {
			q := questions[0]
			questions = questions[1:]
			for q.id = newID(); waiting[q.id] != nil; q.id = newID() { //nolint:revive // until it is nobody else's
			}
			waiting[q.id] = q
		}
		batch, next := a.due(waiting)
		if _, err := c.SendBatch(batch, 0); err != nil {
			return err
		}
		if len(waiting) == 0 {
			continue
		}
		if err := c.SetReadDeadline(next); err != nil {
			return err
		}
		n, err := c.RecvBatch(room, 0)
		for _, d := range room[:n] {
			note(waiting, d.Buf[:d.N])
		}
		// An answer that was cut is longer than any that was asked for: not one of ours.
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.ErrShortBuffer) {
			return err
		}
	}
	return nil
}

// newID is what an answer is recognized by, and what others are not to guess (RFC 5452).
func newID() uint16 { return uint16(rand.Uint32()) }

// due gives the questions that it is time to ask, for the first time or again, and when it is
// time for the next. Those that were asked often enough wait no more.
func (a *asker) due(waiting map[uint16]*question) (batch []client.Datagram, next time.Time) {
	now := time.Now()
	for id, q := range waiting {
		if !q.next.After(now) {
			if q.tries == a.tries {
				delete(waiting, id)
				continue
			}
			if q.tries == 0 {
				q.first = now
			}
			q.next = now.Add(a.wait << min(q.tries, 10))
			q.tries++
			batch = append(batch, client.Datagram{Buf: q.message()})
		}
		if next.IsZero() || q.next.Before(next) {
			next = q.next
		}
	}
	return batch, next
}

// note takes the answer to one of the questions, and drops everything else: late, doubled and
// forged answers.
func note(waiting map[uint16]*question, p []byte) {
	var answer dnsmessage.Parser
	header, err := answer.Start(p)
	if err != nil {
		return
	}
	q := waiting[header.ID]
	if q == nil || !header.Response || !q.isAsked(&answer) {
		return
	}
	if q.read(header, &answer) != nil {
		return // malformed: the next try may bring another
	}
	q.answered, q.took = true, time.Since(q.first)
	delete(waiting, header.ID)
}
