package debug_test

import (
	"expvar"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/blocksock/client"
	"github.com/blocksock/client/debug"
)

func ExampleNewHandler() {
	pool := client.NewPool(client.PoolOptions{MaxConnsPerKey: 8})
	defer pool.Close()

	h := debug.NewHandler(map[string]*client.Pool{"redis": pool})
	defer h.Close()
	mux := http.NewServeMux() // of a listener on loopback
	mux.Handle("/debug/client", h)

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/client", nil))
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "Pool redis"))
	// Output: 200 true
}

// The page shows addresses, so it is for operators: this one is on loopback whatever the
// program's other listeners are.
func ExampleHandler_ServeHTTP() {
	h := debug.NewHandler(nil)
	defer h.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := &http.Server{Handler: h}
	defer server.Close()
	go func() { _ = server.Serve(ln) }()

	resp, err := http.Get("http://" + ln.Addr().String() + "?format=json")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	fmt.Println(resp.Header.Get("Content-Type"))
	// Output: application/json
}

func ExampleHandler_String() {
	pool := client.NewPool(client.PoolOptions{})
	defer pool.Close()
	h := debug.NewHandler(map[string]*client.Pool{"redis": pool})
	defer h.Close()

	expvar.Publish("client", h)
	fmt.Println(strings.Contains(expvar.Get("client").String(), `"redis":{`))
	// Output: true
}
