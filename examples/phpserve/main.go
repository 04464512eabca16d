// Phpserve serves a directory of PHP scripts and files.
//
//	phpserve -root DIR -fpm unix:/run/php/php-fpm.sock
//	phpserve -root blog -fallback /index.php
//
// -fallback is for WordPress, Laravel, Symfony and other programs with a front controller:
// one script that serves each path that is not a file.
//
//	phpserve -debug /debug/client
//
// -debug serves a page for operators at that path: the connections to php-fpm, who waits for
// one, and why they were closed. It shows addresses and asks nobody who they are: use it
// while -listen is on loopback, or behind something that authenticates.
//
// Without -fpm, phpserve starts its own php-fpm. If php-fpm is not installed, an embedded
// FastCGI application in Go serves the built-in demo site.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/debug"
	"github.com/blocksock/client/fastcgi"
)

func main() {
	root := flag.String("root", "", "document root (default: the built-in demo site)")
	fpm := flag.String("fpm", "", "address of php-fpm, unix:PATH or tcp:HOST:PORT (default: start php-fpm)")
	fallback := flag.String("fallback", "", "script for paths that do not exist, such as /index.php (default: status 404)")
	debugPath := flag.String("debug", "", "path of a page for operators, such as /debug/client; whoever can reach -listen can read it (default: none)")
	listen := flag.String("listen", "localhost:8080", "address to listen on")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unknown argument %q: phpserve takes flags only, such as -root DIR", flag.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, *fallback, *fpm, *listen, *debugPath, func(url string) { fmt.Println(url) }); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. It calls ready with the site's URL.
func run(ctx context.Context, root, fallback, fpm, listen, debugPath string, ready func(url string)) error {
	if debugPath != "" && debugPath[0] != '/' {
		return fmt.Errorf("-debug %s is not a path: set it to one such as /debug/client", debugPath)
	}
	dir, err := os.MkdirTemp("", "phpserve")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if root == "" {
		root = filepath.Join(dir, "site")
		if err := unpackSite(root); err != nil {
			return err
		}
	}
	network, address, stop, err := connectOrStart(dir, fpm)
	if err != nil {
		return err
	}
	defer stop()
	pool := client.NewPool(client.PoolOptions{MaxConnsPerKey: fastcgi.DefaultMaxConns, IdleTimeout: fastcgi.DefaultIdleTimeout})
	defer pool.Close()
	app := &fastcgi.Client{Network: network, Address: address, Pool: pool}
	defer app.Close()
	php := &fastcgi.Handler{Client: app, Root: root, Fallback: fallback}
	defer php.Close()
	handler := http.Handler(php)
	if debugPath != "" {
		page := debug.NewHandler(map[string]*client.Pool{"php-fpm": pool})
		defer page.Close()
		// Not an http.ServeMux: it redirects paths that php-fpm has to see as they are.
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == debugPath {
				page.ServeHTTP(w, r)
			} else {
				php.ServeHTTP(w, r)
			}
		})
	}

	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	ready(fmt.Sprintf("http://%s/", ln.Addr()))
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// unpackSite writes the built-in demo site into a directory.
func unpackSite(dir string) error {
	files, err := fs.Sub(site, "site")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, files)
}

// connectOrStart returns the address of the application in fpm. If fpm is empty, it starts
// php-fpm or the embedded application.
func connectOrStart(dir, fpm string) (network, address string, stop func(), err error) {
	if fpm != "" {
		network, address, ok := strings.Cut(fpm, ":")
		if !ok || network != "unix" && network != "tcp" {
			return "", "", nil, fmt.Errorf("-fpm %s is malformed: set it to unix:PATH or tcp:HOST:PORT", fpm)
		}
		return network, address, func() {}, nil
	}
	address = filepath.Join(dir, "s")
	path := findFPM()
	if path == "" {
		fmt.Println("php-fpm is not installed: an application in Go serves the demo site")
		return startEmbedded(address)
	}
	config := filepath.Join(dir, "fpm.conf")
	text := strings.Join([]string{
		"[global]", "daemonize = no", "error_log = " + filepath.Join(dir, "log"), "[www]",
		"user = " + strconv.Itoa(os.Getuid()), "listen = " + address, "pm = static", "pm.max_children = 5",
		"php_admin_value[session.save_path] = " + dir, "php_admin_value[upload_tmp_dir] = " + dir, "",
	}, "\n")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", "", nil, err
	}
	cmd := exec.Command(path, "-F", "-R", "-n", "-y", config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	for range 500 {
		if conn, err := net.Dial("unix", address); err == nil {
			return "unix", address, stop, conn.Close()
		}
		time.Sleep(10 * time.Millisecond) // php-fpm does not notify when it listens
	}
	stop()
	return "", "", nil, fmt.Errorf("%s did not listen on its socket within 5 s", path)
}

// findFPM returns the path of php-fpm, or "" if it is not installed.
func findFPM() string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		for _, pattern := range []string{"php-fpm", "php-fpm[78]*"} {
			if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
				return found[len(found)-1]
			}
		}
	}
	return ""
}
