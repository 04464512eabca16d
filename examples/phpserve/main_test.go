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
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blocksock/client/internal/testleak"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// eachSite runs f with the demo site of php-fpm and with that of the embedded application.
func eachSite(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("php-fpm", func(t *testing.T) {
		requirePHP(t)
		f(t, serve(t, "", "", ""))
	})
	t.Run("Go", func(t *testing.T) {
		_, address, stop, err := startEmbedded(filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		t.Cleanup(stop)
		f(t, serve(t, "", "", "unix:"+address))
	})
}

func requirePHP(t *testing.T) {
	t.Helper()
	if findFPM() != "" {
		return
	}
	if os.Getenv("CLIENT_REQUIRE_SERVERS") != "" {
		t.Fatal("php-fpm is not installed: install php8.2-fpm")
	}
	t.Skip("php-fpm is not installed: install php8.2-fpm")
}

// serve runs the program until the test ends, and returns the site's URL.
func serve(t *testing.T, root, fallback, fpm string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	urls, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- run(ctx, root, fallback, fpm, "127.0.0.1:0", "/debug/client", func(url string) { urls <- url })
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	select {
	case url := <-urls:
		return url
	case err := <-done:
		done <- nil
		require.NoError(t, err)
	}
	return ""
}

// getPage returns the page of a URL.
func getPage(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(b))
	return string(b)
}

// frontControllers are small sites that work like well-known programs with a front
// controller: the root, a path that is not a file, its heading, and a path of another script
// or file.
var frontControllers = map[string]struct{ root, path, heading, inside string }{
	"WordPress": {"testdata/wordpress", "2024/05/hello-world/?preview=1", "Post: 2024/05/hello-world", "wp-admin"},
	"Laravel":   {"testdata/laravel/public", "users/7/edit?tab=a", "Route: users/7/edit", "css/app.css"},
	"Symfony":   {"testdata/symfony/public", "blog/my-post?page=2", "Path: /blog/my-post", "bundles/app.css"},
}

func TestPhpserve_FrontControllers(t *testing.T) {
	requirePHP(t)
	for name, front := range frontControllers {
		t.Run(name, func(t *testing.T) {
			site := serve(t, front.root, "/index.php", "")
			page := getPage(t, site+front.path)
			require.Contains(t, page, "<h1>"+front.heading+"</h1>")
			_, query, _ := strings.Cut(front.path, "?")
			require.Contains(t, page, "<p>Query: "+query+"</p>")
			require.NotContains(t, getPage(t, site+front.inside), front.heading)
			require.Contains(t, getPage(t, site+"index.php"), "<h1>")
		})
	}
}

func TestPhpserve_DemoSite(t *testing.T) {
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

func TestPhpserve_MalformedFPMFlagIsAnError(t *testing.T) {
	for _, fpm := range []string{"nonsense", "udp:x", ":"} {
		require.ErrorContains(t, run(t.Context(), t.TempDir(), "", fpm, "127.0.0.1:0", "", nil), "-fpm "+fpm)
	}
}

func TestPhpserve_DebugPageThatNoURLHasIsAnError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := run(ctx, t.TempDir(), "", "unix:/none", "127.0.0.1:0", "debug/client", func(string) {})
	require.ErrorContains(t, err, "-debug debug/client")
}

func TestPhpserve_ArgumentThatIsNoFlagIsAnError(t *testing.T) {
	out, err := exec.Command("go", "run", ".", "-listen", "127.0.0.1:0", "blog").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), `unknown argument "blog"`)
}

func TestPhpserve_DebugPageShowsTheConnections(t *testing.T) {
	eachSite(t, func(t *testing.T, site string) {
		require.Contains(t, getPage(t, site+"index.php"), "Home")
		page := getPage(t, site+"debug/client")
		require.Contains(t, page, "Pool php-fpm")
		require.Contains(t, page, `data-name="Idle">1`)
		require.Contains(t, getPage(t, site+"debug/client?format=json"), `"Checkouts":1`)
	})
}
