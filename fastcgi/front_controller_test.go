package fastcgi

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// frontControllers are small sites that work like well-known programs with a front
// controller.
var frontControllers = map[string]struct {
	files map[string]string
	root  string
	paths []string
	posts []string
}{
	// WordPress has scripts next to the front controller, and parses REQUEST_URI,
	// PATH_INFO and PHP_SELF.
	"WordPress": {
		files: map[string]string{
			"index.php":          `<?php require __DIR__ . '/wp-blog-header.php';`,
			"wp-blog-header.php": `<?php [$uri] = explode('?', $_SERVER['REQUEST_URI']); $self = $_SERVER['PHP_SELF']; if ($uri === '/gone') http_response_code(404); echo 'post=', trim($uri, '/'), ' info=', $_SERVER['PATH_INFO'] ?? '', " self=$self query=", json_encode($_GET);`,
			"wp-login.php":       `<?php if ($_POST) { setcookie('in', $_POST['log']); header('Location: /wp-admin/'); exit; } echo 'login';`,
			"wp-admin/index.php": `<?php echo 'admin ', $_SERVER['SCRIPT_NAME'], ' ', json_encode($_GET);`,
			"wp-admin/a.css":     "css", "wp-content/uploads/a b.txt": "upload", "wp-content/index.php": "<?php // Silence is golden.",
			"wp-includes/x.txt": "x",
		},
		paths: []string{
			"/", "/?p=1", "/2024/05/hello-world/", "/2024/05/hello-world/?preview=true&x[]=1", "/wp-json/wp/v2/posts?per_page=1", "/gone",
			"/wp-login.php", "/wp-admin", "/wp-admin?x=1", "/wp-admin/", "/wp-admin/?page=a", "/wp-admin/a.css", "/wp-content/uploads/a%20b.txt", "/wp-content/",
			"/index.php/2024/05/x/", "/index.php", "/caf%C3%A9/", "/a%2Fb/", "/%3Fx=1", "/a+b?c=d+e%20f", "/sitemap.xml",
			"/.well-known/change-password",
		},
		posts: []string{"/wp-login.php", "/wp-comments", "/wp-admin/?a=b"},
	},
	// Laravel has the front controller in public, and reads its environment from the
	// parameters.
	"Laravel": {
		root: "public",
		files: map[string]string{
			"vendor/autoload.php": `<?php function env($k) { return $_SERVER[$k] ?? getenv($k); }`,
			"public/index.php":    `<?php require __DIR__ . '/../vendor/autoload.php'; echo 'route=', parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH), ' ', $_SERVER['REQUEST_METHOD'], ' ', json_encode($_GET), ' ', file_get_contents('php://input'), ' env=', env('APP_ENV');`,
			"public/css/app.css":  "css", "public/robots.txt": "robots", ".env": "secret", "public/.htaccess": "secret",
		},
		paths: []string{"/", "/users/1/edit?tab=a&tab=b", "/css/app.css", "/robots.txt", "/api/users?filter[name]=x", "/index.php", "/index.php/users/2"},
		posts: []string{"/api/users?x=1", "/"},
	},
	// Symfony derives its base path from SCRIPT_NAME, SCRIPT_FILENAME and REQUEST_URI.
	"Symfony": {
		root: "public",
		files: map[string]string{
			"public/index.php": `<?php
$base = basename($_SERVER['SCRIPT_NAME']) === basename($_SERVER['SCRIPT_FILENAME']) ? $_SERVER['SCRIPT_NAME'] : '?';
$uri = $_SERVER['REQUEST_URI'];
if (strncmp($uri, $base, strlen($base)) !== 0) $base = rtrim(dirname($base), '/');
[$info] = explode('?', substr($uri, strlen($base)));
header('X-Debug-Token: 1'); echo "base=$base info=", $info ?: '/', ' ', json_encode($_GET);`,
			"public/bundles/app.css": "css",
		},
		paths: []string{"/", "/blog/my-post", "/blog/my-post?page=2", "/index.php/blog/my-post", "/bundles/app.css", "/_profiler/x", "/blog/"},
		posts: []string{"/blog/new"},
	},
}

// Handler.Fallback does what try_files $uri $uri/ /index.php?$query_string does.
func TestHandler_FrontControllersAreServedAsByNginx(t *testing.T) {
	t.Parallel()
	for name, site := range frontControllers {
		t.Run(name, func(t *testing.T) {
			p := startPHP(t, "unix", "pm.max_children = 10")
			root := filepath.Join(writeFiles(t, site.files), site.root)
			nginx := startNginx(t, p, root,
				"location / { try_files $uri $uri/ /index.php?$query_string; }",
				`location ~ ^.+\.php(/|$) { fastcgi_pass php; }`, `location ~ /\.(?!well-known) { return 404; }`)
			ask := func(base, method, path, body string) string {
				req, err := http.NewRequest(method, base+path, strings.NewReader(body))
				require.NoError(t, err)
				req.Host = "site.example"
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
				require.NoError(t, err)
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				to, err := url.Parse(resp.Header.Get("Location"))
				require.NoError(t, err)
				if resp.StatusCode == http.StatusMovedPermanently {
					b = nil // each server has its own page
				}
				return fmt.Sprintf("%d %s %s %s %s", resp.StatusCode, to.RequestURI(), resp.Header.Values("Set-Cookie"), resp.Header.Get("X-Debug-Token"), b)
			}
			for _, fallback := range []string{"/index.php", "/index.php?$query_string", "/index.php$is_args$args"} {
				s := serveHandler(t, &Handler{Client: p.client(t), Root: root, Fallback: fallback, Params: func(*http.Request) map[string]string { return map[string]string{"APP_ENV": "prod"} }})
				for _, path := range site.paths {
					want := ask(nginx, http.MethodGet, path, "")
					require.Equal(t, want, ask(s.URL, http.MethodGet, path, ""), path)
				}
				for _, path := range site.posts {
					want := ask(nginx, http.MethodPost, path, "log=me&pwd=x")
					require.Equal(t, want, ask(s.URL, http.MethodPost, path, "log=me&pwd=x"), path)
				}
			}
		})
	}
}

func TestHandler_FallbackThatIsNotAScriptIsAnError(t *testing.T) {
	t.Parallel()
	for _, fallback := range []string{"index.php", "/index.html", "/index.php?q=$uri", "/index.php?x", "=404"} {
		var logged strings.Builder
		h := &Handler{Client: &Client{}, Root: t.TempDir(), Fallback: fallback, ErrorLog: newLogger(&logged)}
		s := serveHandler(t, h)
		resp, _ := get(t, s, "/x")
		require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
		require.Contains(t, logged.String(), "set it to one such as /index.php")
	}
	var logged strings.Builder
	s := serveHandler(t, &Handler{Client: &Client{}, Root: t.TempDir(), Fallback: "/index.php", ErrorLog: newLogger(&logged)})
	resp, _ := get(t, s, "/x")
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
	require.Contains(t, logged.String(), "Fallback /index.php does not exist")
}

// Laravel's storage:link creates a link that leads out of public.
func TestHandler_FollowSymlinksFollowsLinksOutOfTheRoot(t *testing.T) {
	t.Parallel()
	base := writeFiles(t, map[string]string{"public/index.php": "", "storage/app/public/a.txt": "stored"})
	require.NoError(t, os.Symlink(filepath.Join(base, "storage/app/public"), filepath.Join(base, "public/storage")))
	for _, follow := range []bool{false, true} {
		s := serveHandler(t, &Handler{Client: &Client{}, Root: filepath.Join(base, "public"), FollowSymlinks: follow})
		resp, _ := get(t, s, "/storage/a.txt")
		require.Equal(t, follow, resp.StatusCode == http.StatusOK)
	}
}
