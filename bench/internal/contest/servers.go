package contest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/blocksock/client/bench/internal/sample"
	"github.com/blocksock/client/internal/testserver"
)

// start starts a server that prints its address and exits at the end of its input.
func start(line ...string) (address string, stop func(), err error) {
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = in.Close()
		_ = cmd.Wait() // its exit status has no meaning
	}
	address, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("%s printed no address: %w", line[0], err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return strings.TrimSpace(address), stop, nil
}

// native starts the server in C.
func (c *Contest) native(s *sample.Spec, mode string, args ...string) (stop func(), err error) {
	at := "127.0.0.1:0"
	if s.Network == "unix" {
		at = c.path("socket")
		_ = os.Remove(at) // of the previous case
	}
	s.Address, stop, err = start(append([]string{c.programs.Server, mode, s.Network, at}, args...)...)
	return stop, err
}

// shared starts one server for all peers of a case.
func shared(serve func(c *Contest, s *sample.Spec) (func(), error)) func(*Contest, *sample.Spec, string) (func(), error) {
	var first *sample.Spec
	users := 0
	var end func()
	return func(c *Contest, s *sample.Spec, _ string) (func(), error) {
		if first == nil {
			stop, err := serve(c, s)
			if err != nil {
				return nil, err
			}
			first, end = s, stop
		}
		s.Address, s.Files = first.Address, first.Files
		users++
		return func() {
			if users--; users == 0 {
				end()
				first = nil
			}
		}, nil
	}
}

// echo replies after a delay.
func echo(delay time.Duration) func(*Contest, *sample.Spec, string) (func(), error) {
	return shared(func(c *Contest, s *sample.Spec) (func(), error) {
		return c.native(s, "echo", strconv.Itoa(s.Request), strconv.Itoa(s.Reply), strconv.FormatInt(delay.Nanoseconds(), 10))
	})
}

// noServer is for work that needs none.
func noServer(*Contest, *sample.Spec, string) (func(), error) { return func() {}, nil }

func hold() func(*Contest, *sample.Spec, string) (func(), error) {
	return shared(func(c *Contest, s *sample.Spec) (func(), error) { return c.native(s, "hold") })
}

// stream sends a packet again and again, from a file of about 1 MiB.
func stream(packet []byte) func(*Contest, *sample.Spec, string) (func(), error) {
	return shared(func(c *Contest, s *sample.Spec) (func(), error) {
		file := c.path("stream")
		all := strings.Repeat(string(packet), max(1<<20/len(packet), 1))
		if err := os.WriteFile(file, []byte(all), 0o600); err != nil {
			return nil, err
		}
		return c.native(s, "stream", file)
	})
}

// inGo starts the command front.
func (c *Contest) inGo(s *sample.Spec, of sample.Spec) (stop func(), err error) {
	spec, err := json.Marshal(of)
	if err != nil {
		return nil, err
	}
	s.Address, stop, err = start(c.front, string(spec))
	return stop, err
}

func tlsEcho() func(*Contest, *sample.Spec, string) (func(), error) {
	return shared(func(c *Contest, s *sample.Spec) (func(), error) {
		id, err := testserver.NewIdentity(c.dir)
		if err != nil {
			return nil, err
		}
		s.Files = []string{id.CAFile}
		return c.inGo(s, sample.Spec{Peer: "tls", Request: s.Request, Reply: s.Reply, Files: []string{id.CertFile, id.KeyFile}})
	})
}

func redis() func(*Contest, *sample.Spec, string) (func(), error) {
	return shared(func(_ *Contest, s *sample.Spec) (func(), error) {
		server, err := testserver.Redis()
		if err != nil {
			return nil, err
		}
		s.Address = server.Addr
		if s.Network == "unix" {
			s.Address = server.Socket()
		}
		return server.Stop, nil
	})
}

// handler starts the peer's web server, which queries a Redis server 200 µs away.
func handler(c *Contest, s *sample.Spec, peer string) (func(), error) {
	server, err := testserver.Redis()
	if err != nil {
		return nil, err
	}
	far := sample.Spec{Network: "tcp"}
	stopFar, err := c.native(&far, "delay", server.Addr, "200000")
	if err != nil {
		server.Stop()
		return nil, err
	}
	stop, err := c.inGo(s, sample.Spec{Peer: peer, Network: "tcp", Address: far.Address})
	if err != nil {
		stop = func() {}
	}
	return func() { stop(); stopFar(); server.Stop() }, err
}

// page starts a web server with one small page.
func page() func(*Contest, *sample.Spec, string) (func(), error) {
	return shared(func(_ *Contest, s *sample.Spec) (func(), error) {
		server, err := nginx("keepalive_requests 1000000000; location / { return 200 hello; }", "")
		if err != nil {
			return nil, err
		}
		s.Address = server.Addr
		return server.Stop, nil
	})
}

// hello starts the peer's web server and a php-fpm behind it, whose script prints hello.
func hello(c *Contest, s *sample.Spec, peer string) (func(), error) {
	root := c.path("site")
	if err := os.MkdirAll(root, 0o755); err != nil { // nginx's workers are not root
		return nil, err
	}
	if err := os.Chmod(c.dir, 0o711); err != nil { // to enter it, not to list it
		return nil, err
	}
	const script = "<?php header('Content-Type: text/plain'); echo 'hello';\n"
	if err := os.WriteFile(filepath.Join(root, "hello.php"), []byte(script), 0o644); err != nil { // nginx's workers are not root
		return nil, err
	}
	// Each worker serves one connection until that is closed. With more connections than
	// workers, nginx would wait forever.
	const workers = 40
	php, err := testserver.PHP("unix", "listen.mode = 0666", "pm.max_children = "+strconv.Itoa(workers))
	if err != nil {
		return nil, err
	}
	if peer != "nginx" {
		stop, err := c.inGo(s, sample.Spec{Peer: peer, Network: "unix", Address: php.Socket(), Files: []string{root}, Conns: workers})
		if err != nil {
			stop = func() {}
		}
		return func() { stop(); php.Stop() }, err
	}
	if err := os.Chmod(php.Dir, 0o711); err != nil { // nginx's workers are not root
		php.Stop()
		return nil, err
	}
	server, err := nginx(`keepalive_requests 1000000000; location ~ \.php$ {
		fastcgi_pass php;
		fastcgi_keep_conn on;
		fastcgi_param SCRIPT_FILENAME `+root+`$fastcgi_script_name;
		fastcgi_param REQUEST_METHOD $request_method;
		fastcgi_param SCRIPT_NAME $fastcgi_script_name;
	}`, "upstream php { server unix:"+php.Socket()+"; keepalive "+strconv.Itoa(workers)+"; }")
	if err != nil {
		php.Stop()
		return nil, err
	}
	s.Address = server.Addr
	return func() { server.Stop(); php.Stop() }, nil
}

// nginx starts nginx with settings of its server block and of the http block around it.
func nginx(server, around string) (*testserver.Server, error) {
	path, err := testserver.Find("nginx", "nginx-light")
	if err != nil {
		return nil, err
	}
	return testserver.Start(testserver.Spec{
		Path: path,
		Args: func(s *testserver.Server) []string { return []string{"-p", s.Dir, "-e", "stderr", "-c", "nginx.conf"} },
		Prepare: func(s *testserver.Server) error {
			config := `
				daemon off;
				worker_processes 1;
				pid nginx.pid;
				error_log stderr;
				events { }
				http {
					access_log off;
					client_body_temp_path body;
					proxy_temp_path proxy;
					fastcgi_temp_path fastcgi;
					uwsgi_temp_path uwsgi;
					scgi_temp_path scgi;
					` + around + `
					server { listen ` + s.Addr + `; ` + server + ` }
				}`
			return os.WriteFile(filepath.Join(s.Dir, "nginx.conf"), []byte(config), 0o600)
		},
		Ready: func(s *testserver.Server) error {
			return testserver.Answers("tcp", s.Addr, "HEAD / HTTP/1.0\r\n\r\n", "HTTP/1.1")
		},
	})
}
