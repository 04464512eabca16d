// Phpserve serves a directory of PHP scripts and files.
//
//	phpserve -root DIR -fpm unix:/run/php/php-fpm.sock
//	phpserve -root blog -front /index.php
//
// -front is for WordPress, Laravel, Symfony and others that have one script answer for
// all paths that are no files.
//
// Without -fpm it starts a php-fpm of its own, if one is installed; and else it has
// the pages of its small site answered by a program in Go that speaks FastCGI too.
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

	"github.com/blocksock/client/fastcgi"
)

func main() {
	root := flag.String("root", "", "the document root; default: the small site of this program")
	fpm := flag.String("fpm", "", "unix:PATH or tcp:HOST:PORT of php-fpm; default: start one")
	front := flag.String("front", "", "the script for all that is not there, such as /index.php; default: 404")
	listen := flag.String("listen", "localhost:8080", "where to serve")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, *front, *fpm, *listen, func(url string) { fmt.Println(url) }); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and says where.
func run(ctx context.Context, root, front, fpm, listen string, ready func(url string)) error {
	dir, err := os.MkdirTemp("", "phpserve")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if root == "" {
		root = filepath.Join(dir, "site")
		if err := unpack(root); err != nil {
			return err
		}
	}
	network, address, stop, err := application(dir, fpm)
	if err != nil {
		return err
	}
	defer stop()
	app := &fastcgi.Client{Network: network, Address: address}
	defer app.Close()
	site := &fastcgi.Handler{Client: app, Root: root, Fallback: front}
	defer site.Close()

	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	ready(fmt.Sprintf("http://%s/", ln.Addr()))
	server := &http.Server{Handler: site, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// unpack writes the small site into a directory.
func unpack(dir string) error {
	files, err := fs.Sub(site, "site")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, files)
}

// application finds, or makes, who answers.
func application(dir, fpm string) (network, address string, stop func(), err error) {
	if fpm != "" {
		network, address, ok := strings.Cut(fpm, ":")
		if !ok || network != "unix" && network != "tcp" {
			return "", "", nil, fmt.Errorf("-fpm %s: not unix:PATH or tcp:HOST:PORT", fpm)
		}
		return network, address, func() {}, nil
	}
	address = filepath.Join(dir, "s")
	name := installed()
	if name == "" {
		fmt.Println("php-fpm is not installed: the small site is answered by a program in Go")
		return embedded(address)
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
	cmd := exec.Command(name, "-F", "-R", "-n", "-y", config)
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
		time.Sleep(10 * time.Millisecond) // nothing tells when it is there
	}
	stop()
	return "", "", nil, fmt.Errorf("%s does not listen", name)
}

// installed is a php-fpm, or empty.
func installed() string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		for _, pattern := range []string{"php-fpm", "php-fpm[78]*"} {
			if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
				return found[len(found)-1]
			}
		}
	}
	return ""
}
