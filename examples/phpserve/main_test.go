package main

import (
	"bytes"
	"context"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/blocksock/client/internal/leak"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { leak.Main(m) }

// eachSite runs f on the small site as php-fpm answers for it, and the program in Go.
func eachSite(t *testing.T, f func(t *testing.T, url string)) {
	for name, fpm := range map[string]func(t *testing.T) string{
		"php-fpm": func(t *testing.T) string {
			if installed() == "" {
				if os.Getenv("CLIENT_REQUIRE_SERVERS") != "" {
					t.Fatal("no php-fpm: install php8.2-fpm")
				}
				t.Skip("no php-fpm: install php8.2-fpm")
			}
			return ""
		},
		"Go": func(t *testing.T) string {
			_, address, stop, err := embedded(filepath.Join(t.TempDir(), "s"))
			require.NoError(t, err)
			t.Cleanup(stop)
			return "unix:" + address
		},
	} {
		t.Run(name, func(t *testing.T) {
			application := fpm(t)
			ctx, cancel := context.WithCancel(t.Context())
			urls, done := make(chan string, 1), make(chan error, 1)
			go func() { done <- run(ctx, "", application, "127.0.0.1:0", func(url string) { urls <- url }) }()
			t.Cleanup(func() {
				cancel()
				require.NoError(t, <-done)
			})
			select {
			case url := <-urls:
				f(t, url)
			case err := <-done:
				done <- nil
				require.NoError(t, err)
			}
		})
	}
}

func TestTheSmallSite(t *testing.T) {
	eachSite(t, func(t *testing.T, site string) {
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		c := &http.Client{Jar: jar}
		defer c.CloseIdleConnections()
		reads := func(resp *http.Response, err error) string {
			require.NoError(t, err)
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, resp.StatusCode, string(b))
			return string(b)
		}
		require.Contains(t, reads(c.Get(site)), "This page is made by")
		require.Contains(t, reads(c.Get(site+"style.css")), "sans-serif")
		require.Contains(t, reads(c.Get(site+"form.php")), "<form")
		require.Contains(t, reads(c.PostForm(site+"form.php", url.Values{"name": {"<you>"}})), "Hello, &lt;you&gt;!")
		for _, n := range []string{"1", "2", "3"} {
			require.Contains(t, reads(c.Get(site+"counter.php")), `<p id="count">`+n+"<")
		}
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("file", "f.bin")
		require.NoError(t, err)
		_, err = part.Write(make([]byte, 1<<20))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Contains(t, reads(c.Post(site+"upload.php", w.FormDataContentType(), &form)), "f.bin: 1048576 bytes")
		require.Contains(t, reads(c.Get(site+"info.php")), "SCRIPT_FILENAME")
		resp, err := c.Get(site + "nothing")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusNotFound, resp.StatusCode)
	})
}

func TestFPMThatCannotBe(t *testing.T) {
	for _, fpm := range []string{"nonsense", "udp:x", ":"} {
		require.ErrorContains(t, run(t.Context(), t.TempDir(), fpm, "127.0.0.1:0", nil), "-fpm "+fpm)
	}
}
