package services

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// What the dnsmasq of these tests knows. The texts of a name are one record each:
// "mid.test" has more than the 512 bytes that fit an answer over UDP and less than the
// 4096 that may be asked for, "huge.test" has nearly the 64 KiB of an answer over TCP.
var (
	midTexts  = texts(10, 200)
	hugeTexts = texts(250, 235)
	zoneHosts = hosts(500)
)

func texts(n, length int) []string {
	t := make([]string, n)
	for i := range t {
		t[i] = fmt.Sprintf("%0*d", length, i)
	}
	return t
}

// hosts gives the records of a zone, as they are written.
func hosts(n int) []string {
	h := make([]string, n)
	for i := range h {
		h[i] = fmt.Sprintf("host%d.zone.test. A 10.0.%d.%d", i, i/250, i%250)
	}
	return h
}

func dnsmasqConfig(s *testserver.Server, who string, settings []string) string {
	lines := append([]string{
		"no-resolv", "no-hosts", "listen-address=127.0.0.1", "bind-interfaces", "port=" + s.Port,
		"pid-file=", "log-facility=-", "user=" + who, "edns-packet-max=4096", "local=/test/",
		"txt-record=who.zone.test," + filepath.Base(s.Dir),
		"host-record=a.test,192.0.2.1,2001:db8::1",
		"mx-host=m.test,a.test,10",
		"srv-host=_s._tcp.test,a.test,99,1,2",
		"cname=c.test,a.test",
	}, settings...)
	for _, text := range midTexts {
		lines = append(lines, "txt-record=mid.test,"+text)
	}
	for _, text := range hugeTexts {
		lines = append(lines, "txt-record=huge.test,"+text)
	}
	for _, h := range zoneHosts {
		f := strings.Fields(h)
		lines = append(lines, "host-record="+strings.TrimSuffix(f[0], ".")+","+f[2])
	}
	return strings.Join(lines, "\n") + "\n"
}

// authority is what makes dnsmasq the server of zone.test, and of nothing else.
var authority = []string{"auth-zone=zone.test", "auth-server=ns.zone.test,127.0.0.1", "auth-soa=7", "auth-peer=127.0.0.1"}

// startDnsmasq starts a dnsmasq that serves each connection by a process of its own. Its
// settings are lines of its configuration.
func startDnsmasq(t *testing.T, settings ...string) *testserver.Server {
	t.Helper()
	who, err := user.Current()
	require.NoError(t, err)
	question, err := new(dns.Msg).SetQuestion("who.zone.test.", dns.TypeTXT).Pack()
	require.NoError(t, err)
	path, err := testserver.Find("dnsmasq", "dnsmasq-base")
	var s *testserver.Server
	if err == nil {
		s, err = testserver.Start(testserver.Spec{
			Path: path,
			Prepare: func(s *testserver.Server) error {
				return os.WriteFile(filepath.Join(s.Dir, "conf"), []byte(dnsmasqConfig(s, who.Username, settings)), 0o600)
			},
			Args: func(*testserver.Server) []string { return []string{"--keep-in-foreground", "--conf-file=conf"} },
			Ready: func(s *testserver.Server) error {
				return testserver.Answers("udp", s.Addr, string(question), filepath.Base(s.Dir))
			},
		})
	}
	return testserver.Serve(t, s, err)
}
