package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testserver"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// miekg/dns dials by a *net.Dialer and nothing else. What it is given instead is the
// connection, which it takes for datagrams if it is a net.PacketConn.

func onBothNetworks(t *testing.T, scenario func(t *testing.T, network string, dial dialFunc)) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			onBoth(t, func(t *testing.T, dial dialFunc) { scenario(t, network, dial) })
		})
	}
}

func dialDNS(ctx context.Context, dial dialFunc, network string, s *testserver.Server) (*dns.Conn, error) {
	conn, err := dial(ctx, network, s.Addr)
	if err != nil {
		return nil, err
	}
	return &dns.Conn{Conn: conn}, nil
}

func mustDialDNS(t *testing.T, dial dialFunc, network string, s *testserver.Server) *dns.Conn {
	t.Helper()
	co, err := dialDNS(context.Background(), dial, network, s)
	require.NoError(t, err)
	t.Cleanup(func() { _ = co.Close() }) // tests may have closed it
	return co
}

func ask(name string, typ uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, typ) }

// exchange asks on a connection, within what nothing but what hangs takes.
func exchange(m *dns.Msg, co *dns.Conn) (*dns.Msg, error) {
	c := &dns.Client{Timeout: soon}
	r, _, err := c.ExchangeWithConn(m, co)
	return r, err
}

// records gives an answer's records without their times to live, in order.
func records(rrs []dns.RR) []string {
	var lines []string
	for _, rr := range rrs {
		h := rr.Header()
		lines = append(lines, fmt.Sprintf("%s %s %s", h.Name, dns.TypeToString[h.Rrtype], strings.TrimPrefix(rr.String(), h.String())))
	}
	slices.Sort(lines)
	return lines
}

// textRecords is what records gives for the texts of a name.
func textRecords(name string, texts []string) []string {
	var lines []string
	for _, text := range texts {
		lines = append(lines, fmt.Sprintf("%s TXT %q", name, text))
	}
	slices.Sort(lines)
	return lines
}

func TestDNS_AnswersAllQueriesOnOneConnection(t *testing.T) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		co := mustDialDNS(t, dial, network, s)
		for range 10 {
			for _, q := range []struct {
				name string
				typ  uint16
				want []string
			}{
				{"a.test.", dns.TypeA, []string{"a.test. A 192.0.2.1"}},
				{"a.test.", dns.TypeAAAA, []string{"a.test. AAAA 2001:db8::1"}},
				{"m.test.", dns.TypeMX, []string{"m.test. MX 10 a.test."}},
				{"_s._tcp.test.", dns.TypeSRV, []string{"_s._tcp.test. SRV 1 2 99 a.test."}},
				{"c.test.", dns.TypeA, []string{"a.test. A 192.0.2.1", "c.test. CNAME a.test."}},
				{"1.2.0.192.in-addr.arpa.", dns.TypePTR, []string{"1.2.0.192.in-addr.arpa. PTR a.test."}},
			} {
				m := ask(q.name, q.typ)
				r, err := exchange(m, co)
				require.NoError(t, err)
				require.Equal(t, m.Id, r.Id)
				require.Equal(t, dns.RcodeSuccess, r.Rcode)
				require.Equal(t, q.want, records(r.Answer))
			}
			r, err := exchange(ask("none.test.", dns.TypeA), co)
			require.NoError(t, err)
			require.Equal(t, dns.RcodeNameError, r.Rcode)
		}
	})
}

func TestDNS_TruncatedAnswerIsCompleteOverTCP(t *testing.T) {
	s := startDnsmasq(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		for name, want := range map[string][]string{"mid.test.": midTexts, "huge.test.": hugeTexts} {
			r, err := exchange(ask(name, dns.TypeTXT), mustDialDNS(t, dial, "udp", s))
			require.NoError(t, err)
			require.True(t, r.Truncated)
			require.Less(t, len(r.Answer), len(want))

			r, err = exchange(ask(name, dns.TypeTXT), mustDialDNS(t, dial, "tcp", s))
			require.NoError(t, err)
			require.False(t, r.Truncated)
			require.Equal(t, textRecords(name, want), records(r.Answer))
		}
	})
}

func TestDNS_LongAnswerIsOneDatagramWithEDNS0(t *testing.T) {
	s := startDnsmasq(t)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		co := mustDialDNS(t, dial, "udp", s)
		r, err := exchange(ask("mid.test.", dns.TypeTXT).SetEdns0(4096, false), co)
		require.NoError(t, err)
		require.False(t, r.Truncated)
		require.Greater(t, r.Len(), 512)
		require.Equal(t, textRecords("mid.test.", midTexts), records(r.Answer))

		r, err = exchange(ask("huge.test.", dns.TypeTXT).SetEdns0(4096, false), co)
		require.NoError(t, err)
		require.True(t, r.Truncated)
	})
}

// A server that sends more than was asked for has sent no message that could be read.
// Package net hands out the beginning, client says what happened.
func TestDNS_TruncatedDatagramIsAnErrorAndTheNextIsReceived(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		n := 1
		if q.Question[0].Name == "long.test." {
			n = 10
		}
		for i := range n {
			r.Answer = append(r.Answer, &dns.TXT{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: midTexts[i : i+1],
			})
		}
		_ = w.WriteMsg(r)
	})}
	served := inBackground(server.ActivateAndServe)
	t.Cleanup(func() {
		require.NoError(t, server.Shutdown())
		require.NoError(t, result(t, served))
	})
	onBoth(t, func(t *testing.T, dial dialFunc) {
		co := mustDialDNS(t, dial, "udp", &testserver.Server{Addr: pc.LocalAddr().String()})
		_, err := exchange(ask("long.test.", dns.TypeTXT), co)
		require.Error(t, err)
		if strings.HasSuffix(t.Name(), "client") {
			var cut *client.TruncatedError
			require.ErrorAs(t, err, &cut)
			require.Equal(t, dns.MinMsgSize, cut.Got)
			require.Greater(t, cut.Size, 2000)
		}
		r, err := exchange(ask("short.test.", dns.TypeTXT), co)
		require.NoError(t, err)
		require.Equal(t, textRecords("short.test.", midTexts[:1]), records(r.Answer))
	})
}

func TestDNS_ManyGoroutinesReceiveTheirOwnAnswers(t *testing.T) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		all(t, 8, func(worker int) error { // dnsmasq has 20 processes for connections
			co, err := dialDNS(context.Background(), dial, network, s)
			if err != nil {
				return err
			}
			defer co.Close()
			for round := range 50 {
				want := strings.Fields(zoneHosts[worker*50+round])
				r, err := exchange(ask(want[0], dns.TypeA), co)
				if err != nil {
					return err
				}
				if got := records(r.Answer); !slices.Equal(got, []string{strings.Join(want, " ")}) {
					return fmt.Errorf("%v for %v", got, want)
				}
			}
			return nil
		})
	})
}

func TestDNS_ReadTimeoutEndsAnExchange(t *testing.T) {
	dnsLimit(t, func(m *dns.Msg, co *dns.Conn) (*dns.Msg, error) {
		c := &dns.Client{ReadTimeout: limit}
		r, _, err := c.ExchangeWithConn(m, co)
		return r, err
	})
}

func TestDNS_ContextDeadlineEndsAnExchange(t *testing.T) {
	dnsLimit(t, func(m *dns.Msg, co *dns.Conn) (*dns.Msg, error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		c := &dns.Client{Timeout: soon}
		r, _, err := c.ExchangeWithConnContext(ctx, m, co)
		return r, err
	})
}

// dnsLimit checks a way to ask within a limit.
func dnsLimit(t *testing.T, within func(m *dns.Msg, co *dns.Conn) (*dns.Msg, error)) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		co := mustDialDNS(t, dial, network, s)
		_, err := exchange(ask("a.test.", dns.TypeA), co)
		require.NoError(t, err)
		thaw := freeze(t, s)
		_, err = timed(t, limit, func() (*dns.Msg, error) { return within(ask("mid.test.", dns.TypeTXT), co) })
		requireTimeout(t, err)
		thaw()

		// The late answer is passed over among datagrams. On a stream it is what the
		// driver receives next, and says so: the connection is of no more use.
		r, err := exchange(ask("a.test.", dns.TypeA), co)
		if network == "tcp" {
			require.ErrorIs(t, err, dns.ErrId)
			r, err = exchange(ask("a.test.", dns.TypeA), mustDialDNS(t, dial, network, s))
		}
		require.NoError(t, err)
		require.Equal(t, []string{"a.test. A 192.0.2.1"}, records(r.Answer))
	})
}

// The driver takes from a context its deadline alone. What a cancel can do is close the
// connection, as the driver of a service would have it do.
func TestDNS_CancelByCloseEndsAnExchange(t *testing.T) {
	s := startDnsmasq(t)
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		co := mustDialDNS(t, dial, network, s)
		_, err := exchange(ask("a.test.", dns.TypeA), co)
		require.NoError(t, err)
		thaw := freeze(t, s)
		defer thaw()
		ctx, cancel := context.WithCancel(context.Background())
		context.AfterFunc(ctx, func() { _ = co.Close() })
		answered := inBackground(func() error {
			_, err := exchange(ask("a.test.", dns.TypeA), co)
			return err
		})
		awaitRequest(t, network, s)
		cancel()
		require.ErrorIs(t, result(t, answered), net.ErrClosed)
	})
}

func TestDNS_KilledServerEndsAnExchangeOverTCP(t *testing.T) {
	onBoth(t, func(t *testing.T, dial dialFunc) {
		s := startDnsmasq(t)
		co := mustDialDNS(t, dial, "tcp", s)
		_, err := exchange(ask("a.test.", dns.TypeA), co)
		require.NoError(t, err)
		freeze(t, s)
		answered := inBackground(func() error {
			_, err := exchange(ask("a.test.", dns.TypeA), co)
			return err
		})
		awaitRequest(t, "tcp", s)
		kill(t, s)
		require.Error(t, result(t, answered))
		_, err = dialDNS(context.Background(), dial, "tcp", s)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

// A port without a server is told by ICMP, and the socket is as good as it was.
func TestDNS_UDPIsRefusedWithoutServerAndAnsweredAfterRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, dial dialFunc) {
		s := startDnsmasq(t)
		co := mustDialDNS(t, dial, "udp", s)
		_, err := exchange(ask("a.test.", dns.TypeA), co)
		require.NoError(t, err)
		kill(t, s)
		for range 3 {
			_, err = exchange(ask("a.test.", dns.TypeA), co)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
		require.NoError(t, s.Restart())
		r, err := exchange(ask("mid.test.", dns.TypeTXT).SetEdns0(4096, false), co)
		require.NoError(t, err)
		require.Equal(t, textRecords("mid.test.", midTexts), records(r.Answer))
	})
}

func TestDNS_GoroutinesOutliveServerRestart(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, network string, dial dialFunc) {
		s := startDnsmasq(t)
		throughRestart(t, s, 4, func(int) error {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			co, err := dialDNS(ctx, dial, network, s)
			if err != nil {
				return err
			}
			defer co.Close()
			r, _, err := new(dns.Client).ExchangeWithConnContext(ctx, ask("a.test.", dns.TypeA), co)
			if err == nil && len(r.Answer) != 1 {
				err = errors.New("that is no answer")
			}
			return err
		})
	})
}

func TestDNS_TransfersAZone(t *testing.T) {
	s := startDnsmasq(t, authority...)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		tr := &dns.Transfer{Conn: mustDialDNS(t, dial, "tcp", s)}
		envelopes, err := tr.In(new(dns.Msg).SetAxfr("zone.test."), s.Addr)
		require.NoError(t, err)
		var rrs []dns.RR
		for e := range envelopes {
			require.NoError(t, e.Error)
			rrs = append(rrs, e.RR...)
		}
		require.Equal(t, dns.TypeSOA, rrs[0].Header().Rrtype)
		require.Equal(t, rrs[0], rrs[len(rrs)-1])
		rrs = slices.DeleteFunc(rrs, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeA })
		want := slices.Clone(zoneHosts)
		slices.Sort(want)
		require.Equal(t, want, records(rrs))
	})
}

func TestDNS_ReadTimeoutEndsATransfer(t *testing.T) {
	s := startDnsmasq(t, authority...)
	onBoth(t, func(t *testing.T, dial dialFunc) {
		thaw := freeze(t, s)
		defer thaw()
		tr := &dns.Transfer{Conn: mustDialDNS(t, dial, "tcp", s), ReadTimeout: limit}
		_, err := timed(t, limit, func() (struct{}, error) {
			envelopes, err := tr.In(new(dns.Msg).SetAxfr("zone.test."), s.Addr)
			require.NoError(t, err)
			for e := range envelopes {
				err = e.Error
			}
			return struct{}{}, err
		})
		requireTimeout(t, err)
	})
}
