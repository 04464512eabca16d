package web

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

// startProxy puts a reverse proxy in front of a visit's site, that goes there as the visit
// does. What it gives visits the site through the proxy.
func startProxy(t *testing.T, v *visit) *visit {
	t.Helper()
	to, err := url.Parse(v.at(""))
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:     v.roads,
		FlushInterval: -1,                         // half an answer is for the user at once
		ErrorLog:      log.New(io.Discard, "", 0), // these tests give requests up
	})
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)

	front := *v.site
	front.url, front.proto = server.URL, "HTTP/1.1"
	roads := new(http.Transport)
	t.Cleanup(roads.CloseIdleConnections)
	return &visit{site: &front, dialer: v.dialer, roads: roads, web: &http.Client{Transport: roads}}
}

// throughAProxy runs a scenario behind a reverse proxy that goes on in each way.
func throughAProxy(t *testing.T, scenario func(t *testing.T, user, proxy *visit)) {
	t.Helper()
	eachWay(t, func(t *testing.T, v *visit) { scenario(t, startProxy(t, v), v) })
}

func TestReverseProxy_ForwardsFiles(t *testing.T) {
	throughAProxy(t, func(t *testing.T, user, proxy *visit) {
		user.works(t)
		data := user.puts(t, "/files/proxied", 2*mebibyte)
		require.NoError(t, user.gets(limited(t), "/files/proxied", data))
		require.Equal(t, 1, proxy.Dials())
	})
}

func TestReverseProxy_ForwardsCancel(t *testing.T) {
	throughAProxy(t, func(t *testing.T, user, proxy *visit) {
		ctx, cancel := context.WithCancel(limited(t))
		result := make(chan error, 1)
		go func() {
			_, _, err := user.do(ctx, http.MethodGet, "/app/never", nil)
			result <- err
		}()
		there := user.came(t)
		cancel()
		require.ErrorIs(t, eventually(t, result), context.Canceled)
		isTold(t, there)

		ctx, cancel = context.WithCancel(limited(t))
		response, there := user.half(t, ctx)
		cancel()
		_, err := io.ReadAll(response.Body)
		require.ErrorIs(t, err, context.Canceled)
		isTold(t, there)
		proxy.works(t)
		user.works(t)
	})
}

func TestReverseProxy_KilledServerIsBadGateway(t *testing.T) {
	throughAProxy(t, func(t *testing.T, user, _ *visit) {
		user.works(t)
		result := make(chan int, 1)
		go func() {
			// Not a GET, which a transport repeats.
			status, _, _ := user.do(limited(t), http.MethodPost, "/app/never", nil)
			result <- status
		}()
		user.came(t)
		user.server.Kill()
		select {
		case status := <-result:
			require.Equal(t, http.StatusBadGateway, status)
		case <-time.After(wire.TestTimeout):
			t.Fatal("it hangs")
		}
		require.NoError(t, user.server.Restart())
		user.works(t)
	})
}

func TestHTTP_UpgradedConnectionCarriesBytesBothWays(t *testing.T) {
	overHTTP1(t, func(t *testing.T, v *visit) { upgrades(t, v) })
}

func TestReverseProxy_UpgradesAConnection(t *testing.T) {
	overHTTP1(t, func(t *testing.T, v *visit) { upgrades(t, startProxy(t, v)) })
}

func upgrades(t *testing.T, v *visit) {
	request, err := http.NewRequestWithContext(limited(t), http.MethodGet, v.at("/app/upgrade"), nil)
	require.NoError(t, err)
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "echo")
	response, err := v.web.Do(request)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	require.Equal(t, "echo", response.Header.Get("Upgrade"))
	conn, ok := response.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	defer conn.Close()

	for range 100 { // as a conversation
		_, err := io.WriteString(conn, "ping")
		require.NoError(t, err)
		answer := make([]byte, 4)
		_, err = io.ReadFull(conn, answer)
		require.NoError(t, err)
		require.Equal(t, "ping", string(answer))
	}

	data := randomBytes(4 * mebibyte) // and both ways at once
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.True(t, bytes.Equal(data, got), "these are not the bytes that were sent")

	over := make(chan error, 1) // and until one of the two has enough
	go func() {
		_, err := conn.Read(make([]byte, 1))
		over <- err
	}()
	require.NoError(t, conn.Close())
	require.Error(t, eventually(t, over))
	v.works(t)
}
