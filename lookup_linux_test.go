package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// hostsOfASearchList have addresses of one family, and other hosts of the search list
// those of the other.
var hostsOfASearchList = map[string]string{
	"db":              "127.0.0.1",
	"six":             "::1",
	"www.example.com": "127.0.0.1",
	"dualstack":       "127.0.0.1 ::1",
	"second":          "::1",
	"listed":          "127.0.0.1", // has another line in /etc/hosts, which comes after DNS
	"db.prod.test.":   "127.0.0.1",
}

var searchListZone = map[string][]string{
	"db.prod.test.":                 {"127.0.0.1"},
	"db.staging.test.":              {"::1"},
	"six.prod.test.":                {"::1"},
	"six.staging.test.":             {"127.0.0.1"},
	"www.example.com.":              {"127.0.0.1"},
	"www.example.com.prod.test.":    {"::1"},
	"dualstack.prod.test.":          {"127.0.0.1", "::1"},
	"second.prod.test.":             {}, // it exists
	"second.staging.test.":          {"::1"},
	"listed.prod.test.":             {"127.0.0.1"},
	"www.example.com.staging.test.": {"::1"},
}

// dialSearchList is the part of TestLookup_AddressesAreOfOneHost that runs in a process
// with a mount namespace of its own. It prints which addresses are tried.
func dialSearchList(string) error {
	if err := unix.Mount("tmpfs", "/etc", "tmpfs", 0, ""); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"resolv.conf": "nameserver 127.0.0.1\nsearch prod.test staging.test\n", "nsswitch.conf": "hosts: dns files\n", "hosts": "::1 listed\n",
	} {
		if err := os.WriteFile("/etc/"+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(answer(buf[:n], searchListZone), from)
		}
	}()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	for host := range hostsOfASearchList {
		var tried []string
		_, err := client.Dial("tcp", host+":1", &client.Options{Resolver: r, Control: func(_, address string, _ syscall.RawConn) error {
			host, _, err := net.SplitHostPort(address)
			tried = append(tried, host)
			return errors.Join(err, unix.EPERM) // so that all are
		}})
		if len(tried) == 0 {
			return err
		}
		slices.Sort(tried)
		fmt.Printf("%s: %s\n", host, strings.Join(tried, " "))
	}
	return nil
}

// A name means one host of the search list of resolv.conf(5): the one that package net
// finds. Each family used to be looked up separately, so a family missing in one domain
// was taken from the next. The dial then reached the database of another environment.
func TestLookup_AddressesAreOfOneHost(t *testing.T) {
	cmd := helperCommand(t, "searchlist")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.Output()
	if errors.Is(err, unix.EPERM) && os.Getenv("CLIENT_REQUIRE_SERVERS") != "1" {
		t.Skip("needs the right to make a mount namespace")
	}
	require.NoError(t, err)
	got := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		host, tried, _ := strings.Cut(strings.TrimSpace(line), ": ")
		got[host] = tried
	}
	require.Equal(t, hostsOfASearchList, got)
}
