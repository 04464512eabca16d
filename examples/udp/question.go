package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A question is a name, and what became of asking for it.
type question struct {
	text string // as it was given
	dns  dnsmessage.Question

	id    uint16
	tries int
	first time.Time // of the first try
	next  time.Time // when it is time for another

	answered bool
	took     time.Duration // from the first try to the answer
	answer   []string
}

var types = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "CNAME": dnsmessage.TypeCNAME, "MX": dnsmessage.TypeMX,
	"NS": dnsmessage.TypeNS, "PTR": dnsmessage.TypePTR, "TXT": dnsmessage.TypeTXT,
}

func typeNames() []string { return slices.Sorted(maps.Keys(types)) }

// prepare makes questions of names.
func prepare(names []string, kind string) ([]*question, error) {
	t, ok := types[strings.ToUpper(kind)]
	if !ok {
		return nil, fmt.Errorf("unknown type %q: -type is one of %s", kind, strings.Join(typeNames(), ", "))
	}
	all := make([]*question, len(names))
	for i, text := range names {
		name, err := dnsmessage.NewName(strings.TrimSuffix(text, ".") + ".")
		q := &question{text: text, dns: dnsmessage.Question{Name: name, Type: t, Class: dnsmessage.ClassINET}}
		if err == nil {
			_, err = q.pack()
		}
		if err != nil {
			return nil, fmt.Errorf("%q is not a name: %w", text, err)
		}
		all[i] = q
	}
	return all, nil
}

// message is the question as it is sent.
func (q *question) message() []byte {
	p, err := q.pack()
	if err != nil {
		panic(err) // prepare has packed it before
	}
	return p
}

func (q *question) pack() ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.id, RecursionDesired: true})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q.dns); err != nil {
		return nil, err
	}
	if err := b.StartAdditionals(); err != nil {
		return nil, err
	}
	var edns dnsmessage.ResourceHeader
	if err := edns.SetEDNS0(maxAnswer, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, err
	}
	if err := b.OPTResource(edns, dnsmessage.OPTResource{}); err != nil {
		return nil, err
	}
	return b.Finish()
}

// isAsked reports whether an answer repeats this question and no other (RFC 5452, 9.1).
func (q *question) isAsked(answer *dnsmessage.Parser) bool {
	all, err := answer.AllQuestions()
	return err == nil && len(all) == 1 && all[0].Type == q.dns.Type && all[0].Class == q.dns.Class &&
		strings.EqualFold(all[0].Name.String(), q.dns.Name.String())
}

// read reads the records of an answer.
func (q *question) read(header dnsmessage.Header, answer *dnsmessage.Parser) error {
	if header.RCode != dnsmessage.RCodeSuccess {
		q.answer = []string{strings.TrimPrefix(header.RCode.String(), "RCode")}
		return nil
	}
	records, err := answer.AllAnswers()
	if err != nil {
		return err
	}
	q.answer = nil
	for _, r := range records {
		if text := record(r.Body); text != "" {
			q.answer = append(q.answer, text)
		}
	}
	switch {
	case header.Truncated:
		q.answer = append(q.answer, "(there is more, over tcp)")
	case len(q.answer) == 0:
		q.answer = []string{"(no such records)"}
	}
	return nil
}

// record writes a record of the types that can be asked for.
func record(body dnsmessage.ResourceBody) string {
	switch b := body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.CNAMEResource:
		return "→ " + escaped(b.CNAME)
	case *dnsmessage.MXResource:
		return fmt.Sprintf("%d %s", b.Pref, escaped(b.MX))
	case *dnsmessage.NSResource:
		return escaped(b.NS)
	case *dnsmessage.PTRResource:
		return escaped(b.PTR)
	case *dnsmessage.TXTResource:
		return fmt.Sprintf("%q", strings.Join(b.TXT, ""))
	}
	return ""
}

// escaped writes a name without control characters, which could be sequences for the terminal:
// a name in DNS may have any byte.
func escaped(name dnsmessage.Name) string {
	quoted := strconv.QuoteToASCII(name.String())
	return quoted[1 : len(quoted)-1]
}
