package fastcgi_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/fcgi"
	"strings"

	"github.com/blocksock/client/fastcgi"
)

// exampleServer starts an application that speaks FastCGI.
func exampleServer() (network, address string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		_ = fcgi.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "hello %s, %d bytes", r.URL.Query().Get("name"), len(body))
		}))
	}()
	return "tcp", ln.Addr().String(), func() { _ = ln.Close() }
}

func ExampleClient() {
	network, address, stop := exampleServer()
	defer stop()
	app := &fastcgi.Client{Network: network, Address: address}
	defer app.Close()

	resp, err := app.Do(context.Background(), &fastcgi.Request{
		Params: map[string]string{
			"REQUEST_METHOD":  "POST",
			"SERVER_PROTOCOL": "HTTP/1.1",
			"REQUEST_URI":     "/?name=you",
			"QUERY_STRING":    "name=you",
		},
		Body: strings.NewReader("some text"), ContentLength: 9,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(body), err)
	// Output: 200 hello you, 9 bytes <nil>
}

// An http.Client that sends its requests to an application.
func ExampleTransport() {
	network, address, stop := exampleServer()
	defer stop()
	app := &fastcgi.Client{Network: network, Address: address}
	defer app.Close()
	web := &http.Client{Transport: &fastcgi.Transport{Client: app, ScriptRoot: "/srv/www"}}

	resp, err := web.Get("http://localhost/index.php?name=me")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: hello me, 0 bytes <nil>
}

// A document root whose scripts php-fpm runs.
func ExampleHandler() {
	php := &fastcgi.Client{Network: "unix", Address: "/run/php/php-fpm.sock"}
	defer php.Close()
	site := &fastcgi.Handler{Client: php, Root: "/var/www", Fallback: "/index.php"}
	log.Fatal(http.ListenAndServe("localhost:8080", site))
}
