package fastcgi

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/testserver"
)

// startNginx starts nginx with persistent connections to the same php-fpm. Its behaviour
// is the reference.
func startNginx(t testing.TB, p *phpFPM, root string, locations ...string) (url string) {
	t.Helper()
	path, err := testserver.Find("nginx", "nginx-light")
	var s *testserver.Server
	if err == nil {
		s, err = testserver.Start(testserver.Spec{
			Path: path,
			Prepare: func(s *testserver.Server) error {
				if len(locations) == 0 {
					locations = []string{"location / { fastcgi_pass php; }"}
				}
				params := ""
				for _, line := range []string{
					"QUERY_STRING $query_string", "REQUEST_METHOD $request_method", "CONTENT_TYPE $content_type", "CONTENT_LENGTH $content_length",
					"SCRIPT_NAME $fastcgi_script_name", "REQUEST_URI $request_uri", "DOCUMENT_URI $document_uri", "DOCUMENT_ROOT $document_root",
					"SERVER_PROTOCOL $server_protocol", "REQUEST_SCHEME $scheme", "REMOTE_ADDR $remote_addr", "SERVER_PORT $server_port",
					"SCRIPT_FILENAME $document_root$fastcgi_script_name", "PATH_INFO $fastcgi_path_info", "APP_ENV prod",
				} {
					params += "fastcgi_param " + line + ";\n"
				}
				return os.WriteFile(filepath.Join(s.Dir, "conf"), []byte(`
daemon off; master_process off; pid `+s.Dir+`/pid; error_log stderr;
events { }
http {
	access_log off;
	types { text/plain txt; text/css css; }
	client_body_temp_path `+s.Dir+`/body; proxy_temp_path `+s.Dir+`/proxy; fastcgi_temp_path `+s.Dir+`/fastcgi;
	uwsgi_temp_path `+s.Dir+`/uwsgi; scgi_temp_path `+s.Dir+`/scgi;
	client_max_body_size 100m;
	upstream php { server unix:`+p.Socket()+`; keepalive 4; }
	fastcgi_keep_conn on;
	fastcgi_split_path_info ^(.+?\.php)(/.*)$;
	`+params+`
	server {
		listen 127.0.0.1:`+s.Port+`;
		root `+root+`;
		index index.php index.html;
		`+strings.Join(locations, "\n")+`
	}
}
`), 0o600)
			},
			// Without a master process, the server stops when it is killed.
			Args: func(s *testserver.Server) []string {
				return []string{"-p", s.Dir, "-e", "stderr", "-c", filepath.Join(s.Dir, "conf")}
			},
			Ready: func(s *testserver.Server) error {
				if _, err := os.Stat(filepath.Join(s.Dir, "pid")); err != nil {
					return errors.New("it does not run yet")
				}
				return testserver.Answers("tcp", s.Addr, "", "")
			},
		})
	}
	return "http://" + testserver.Serve(t, s, err).Addr
}
