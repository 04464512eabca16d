package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testserver"
	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

// A way is one of those in which HTTP gets to nginx. Each is an http.Transport that a
// program could have, with a dial function of one of the two dialers.
//
// There is none with a client.Pool, which is not for the transport: it keeps connections
// itself, and closes one to be rid of it, be it in the middle of an answer. A pool takes
// Close for an end that is clean, and what has not arrived it cannot see.
type way struct {
	name   string
	listen string // what nginx is told: %s is its address
	url    string // %s is its address
	proto  string // what is spoken, as http.Response.Proto has it

	transport func(s *site, d *dialer) *http.Transport
}

var ways = []way{
	{
		name: "HTTP/1.1", listen: "%s", url: "http://%s", proto: "HTTP/1.1",
		transport: func(_ *site, d *dialer) *http.Transport {
			return &http.Transport{DialContext: d.plain()}
		},
	},
	{
		name: "HTTP/1.1 over a unix socket", listen: "unix:s", url: "http://localhost", proto: "HTTP/1.1",
		transport: func(s *site, d *dialer) *http.Transport {
			dial := d.plain()
			return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dial(ctx, "unix", s.server.Socket())
			}}
		},
	},
	{
		name: "HTTP/1.1 over the transport's TLS", listen: "%s ssl http2", url: "https://%s", proto: "HTTP/1.1",
		transport: func(s *site, d *dialer) *http.Transport {
			return &http.Transport{DialContext: d.plain(), TLSClientConfig: trusting(s.id)}
		},
	},
	{
		name: "HTTP/1.1 over the dialer's TLS", listen: "%s ssl http2", url: "https://%s", proto: "HTTP/1.1",
		transport: func(s *site, d *dialer) *http.Transport {
			return &http.Transport{DialTLSContext: d.secure(s.id, "http/1.1")}
		},
	},
	{
		name: "HTTP/2", listen: "%s http2", url: "http://%s", proto: "HTTP/2.0",
		transport: func(_ *site, d *dialer) *http.Transport {
			return &http.Transport{DialContext: d.plain(), Protocols: priorKnowledge()}
		},
	},
	{
		name: "HTTP/2 over the transport's TLS", listen: "%s ssl http2", url: "https://%s", proto: "HTTP/2.0",
		transport: func(s *site, d *dialer) *http.Transport {
			return &http.Transport{DialContext: d.plain(), TLSClientConfig: trusting(s.id), ForceAttemptHTTP2: true}
		},
	},
	{
		name: "HTTP/2 over the dialer's TLS", listen: "%s ssl http2", url: "https://%s", proto: "HTTP/2.0",
		transport: func(s *site, d *dialer) *http.Transport {
			// The transport sees by ALPN what a server speaks on connections of
			// crypto/tls's type alone. On others it has to be told; the dialer's TLS
			// offers nothing else.
			dial := &http.Transport{DialTLSContext: d.secure(s.id, "h2"), Protocols: priorKnowledge()}
			if d.wire == nil {
				dial.Protocols, dial.ForceAttemptHTTP2 = nil, true
			}
			return dial
		},
	},
}

// priorKnowledge is HTTP/2 from the first byte (RFC 9113, 3.3).
func priorKnowledge() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func (w way) multiplexes() bool { return w.proto == "HTTP/2.0" }

// A site is an nginx that serves one of the ways: /files/ from a directory, where PUT puts
// them, /refused if it is small, and /app/ from an app.
type site struct {
	way
	*app
	id     *testserver.Identity
	server *testserver.Server
	token  string // at /ready, so that it is this nginx and no other
}

// startSite starts one, until the test's end. Settings are those of its server.
func startSite(t *testing.T, w way, settings ...string) *site {
	t.Helper()
	nginx, err := testserver.Find("nginx", "nginx-light")
	testserver.Require(t, err)
	s := &site{way: w, app: startApp(t), token: rand.Text()}
	s.id, err = testserver.NewIdentity(t.TempDir())
	require.NoError(t, err)
	s.server, err = testserver.Start(testserver.Spec{
		Path: nginx,
		Prepare: func(server *testserver.Server) error {
			s.server = server
			return os.WriteFile(filepath.Join(server.Dir, "conf"), []byte(s.config(settings)), 0o600)
		},
		Args: func(server *testserver.Server) []string {
			_ = os.Remove(server.Socket()) // which one that was killed has left behind
			return []string{"-p", server.Dir, "-c", "conf", "-e", "stderr"}
		},
		Ready: func(*testserver.Server) error { return s.ready() },
	})
	s.server = testserver.Serve(t, s.server, err)
	return s
}

// config is nginx's, one process so that to kill it is to end it.
func (s *site) config(settings []string) string {
	return `
		daemon off;
		master_process off;
		pid pid;
		error_log stderr;
		events { }
		http {
			access_log off;
			client_body_temp_path body;
			proxy_temp_path proxy;
			fastcgi_temp_path fastcgi;
			uwsgi_temp_path uwsgi;
			scgi_temp_path scgi;
			client_max_body_size 0;
			map $http_upgrade $connection_upgrade { "" ""; default upgrade; }
			server {
				listen ` + strings.ReplaceAll(s.listen, "%s", s.server.Addr) + `;
				ssl_certificate ` + s.id.CertFile + `;
				ssl_certificate_key ` + s.id.KeyFile + `;
				root .;
				location = /ready { return 200 "` + s.token + `"; }
				location = /refused { client_max_body_size 1k; }
				location /files/ { dav_methods PUT; create_full_put_path on; }
				location /app/ {
					proxy_pass http://unix:` + s.socket + `:/app/;
					proxy_http_version 1.1;
					proxy_buffering off;
					proxy_request_buffering off;
					proxy_set_header Upgrade $http_upgrade;
					proxy_set_header Connection $connection_upgrade;
				}
				` + strings.Join(settings, "\n") + `
			}
		}
	`
}

func (s *site) ready() error {
	transport := s.transport(s, new(dialer))
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport, Timeout: time.Second}
	response, err := web.Get(s.at("/ready"))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	token, err := io.ReadAll(response.Body)
	if err == nil && string(token) != s.token {
		err = errors.New("this is not the nginx that was started")
	}
	return err
}

// at is a URL.
func (s *site) at(path string) string {
	if !strings.Contains(s.url, "%s") {
		return s.url + path
	}
	return fmt.Sprintf(s.url, s.server.Addr) + path
}

// A visit is a scenario's http.Client, and the site that it is for.
type visit struct {
	*site
	*dialer
	roads *http.Transport
	web   *http.Client
}

// newVisit gives one, whose connections are closed at the test's end.
func newVisit(t *testing.T, s *site, d *dialer) *visit {
	t.Helper()
	roads := s.transport(s, d)
	t.Cleanup(func() {
		// The transport may be busy yet with a request that for its caller is over.
		require.Eventually(t, func() bool {
			roads.CloseIdleConnections()
			return d.Open() == 0
		}, wire.TestTimeout, time.Millisecond, "connections are left open")
	})
	return &visit{site: s, dialer: d, roads: roads, web: &http.Client{Transport: roads}}
}

// eachWay runs a scenario in each way, on both dialers.
func eachWay(t *testing.T, scenario func(t *testing.T, v *visit), settings ...string) {
	t.Helper()
	overWays(t, func(way) bool { return true }, scenario, settings...)
}

func overHTTP1(t *testing.T, scenario func(t *testing.T, v *visit), settings ...string) {
	t.Helper()
	overWays(t, func(w way) bool { return !w.multiplexes() }, scenario, settings...)
}

func overHTTP2(t *testing.T, scenario func(t *testing.T, v *visit), settings ...string) {
	t.Helper()
	overWays(t, way.multiplexes, scenario, settings...)
}

func overWays(t *testing.T, which func(way) bool, scenario func(t *testing.T, v *visit), settings ...string) {
	t.Helper()
	for _, w := range ways {
		if !which(w) {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			s := startSite(t, w, settings...)
			onBoth(t, func(t *testing.T, d *dialer) { scenario(t, newVisit(t, s, d)) })
		})
	}
}
