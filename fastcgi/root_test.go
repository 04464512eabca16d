package fastcgi

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// writeFiles writes files into a temporary directory.
func writeFiles(t testing.TB, contents map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for name, content := range contents {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	return dir
}

// serveHandler serves a Handler and closes it with the server.
func serveHandler(t testing.TB, h *Handler) *httptest.Server {
	t.Helper()
	if h.ErrorLog == nil {
		h.ErrorLog = log.New(io.Discard, "", 0)
	}
	s := httptest.NewServer(h)
	s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() {
		s.Close()
		require.NoError(t, h.Close())
	})
	return s
}

func newLogger(w io.Writer) *log.Logger { return log.New(w, "", 0) }

// switchLink makes a link lead elsewhere in one step, as a deployment does.
func switchLink(t testing.TB, link, to string) {
	t.Helper()
	require.NoError(t, os.Symlink(to, link+".new"))
	require.NoError(t, os.Rename(link+".new", link))
}

func openDescriptorCount(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

// After ln -sfn, the old release was served. After its deletion, every path had status 404
// until the program was restarted.
func TestHandler_SwitchedReleaseIsServedAtOnce(t *testing.T) {
	for name, h := range map[string]*Handler{
		"the path": {}, "the real path": {ResolveRootSymlink: true}, "links followed": {FollowSymlinks: true},
		"links followed, the real path": {FollowSymlinks: true, ResolveRootSymlink: true},
		"another's path":                {ScriptRoot: "/app", ResolveRootSymlink: true},
	} {
		t.Run(name, func(t *testing.T) {
			base := writeFiles(t, map[string]string{"releases/0/public/style.css": "css 0", "releases/0/public/index.php": ""})
			current := filepath.Join(base, "current")
			switchLink(t, current, "releases/0")
			h.Root = filepath.Join(current, "public") // below the switched link
			h.Client = newParamsApplication(t)
			s := serveHandler(t, h)
			before := 0
			for n := range 30 {
				release := filepath.Join(base, "releases", strconv.Itoa(n))
				if n > 0 {
					require.NoError(t, os.MkdirAll(filepath.Join(release, "public"), 0o755))
					require.NoError(t, os.WriteFile(filepath.Join(release, "public/style.css"), []byte("css "+strconv.Itoa(n)), 0o600))
					require.NoError(t, os.WriteFile(filepath.Join(release, "public/index.php"), nil, 0o600))
					switchLink(t, current, release)
					require.NoError(t, os.RemoveAll(filepath.Join(base, "releases", strconv.Itoa(n-1))))
				}
				_, body := get(t, s, "/style.css")
				require.Equal(t, "css "+strconv.Itoa(n), body)
				resp, body := get(t, s, "/")
				require.Equal(t, http.StatusOK, resp.StatusCode)
				root := h.Root
				switch {
				case h.ScriptRoot != "":
					root = h.ScriptRoot
				case h.ResolveRootSymlink:
					root = filepath.Join(release, "public")
				}
				require.Equal(t, root, parseParams(body)["DOCUMENT_ROOT"])
				require.Equal(t, root+"/index.php", parseParams(body)["SCRIPT_FILENAME"])
				if n == 0 {
					before = openDescriptorCount(t)
				}
			}
			require.LessOrEqual(t, openDescriptorCount(t), before+2, "the directories of old releases are closed")
		})
	}
}

func TestHandler_FilesAreFoundWhileReleasesAreSwitched(t *testing.T) {
	t.Parallel()
	base := writeFiles(t, map[string]string{"a/style.css": "css", "b/style.css": "css"})
	current := filepath.Join(base, "current")
	switchLink(t, current, "a")
	s := serveHandler(t, &Handler{Client: &Client{}, Root: current})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				resp, body := get(t, s, "/style.css")
				if resp.StatusCode != http.StatusOK || body != "css" {
					t.Errorf("%d %q", resp.StatusCode, body)
				}
			}
		})
	}
	for i := range 200 {
		switchLink(t, current, []string{"a", "b"}[i%2])
	}
	wg.Wait()
}

// A missing root is an error only as long as it is missing.
func TestHandler_RootThatAppearsLaterIsServed(t *testing.T) {
	t.Parallel()
	base := writeFiles(t, map[string]string{"a/style.css": "css"})
	s := serveHandler(t, &Handler{Client: &Client{}, Root: filepath.Join(base, "current")})
	resp, _ := get(t, s, "/style.css")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	switchLink(t, filepath.Join(base, "current"), "a")
	_, body := get(t, s, "/style.css")
	require.Equal(t, "css", body)
}

// os.Root rejects absolute links. Deployments create them to directories that all releases
// share.
func TestHandler_LinksInsideTheRootAreFollowed(t *testing.T) {
	t.Parallel()
	base := writeFiles(t, map[string]string{
		"site/dir/file.txt": "inside", "site/dir/run.php": "secret source", "secret.txt": "outside", "site2/secret.txt": "outside", "secret.php": "secret source",
	})
	site := filepath.Join(base, "site")
	require.NoError(t, os.Symlink("site", filepath.Join(base, "current")))
	for name, to := range map[string]string{
		"absolute.txt": site + "/dir/file.txt", "absolute": site + "/dir", "around.txt": "../site/dir/file.txt",
		"current.txt": filepath.Join(base, "current/dir/file.txt"), "absolute.php": site + "/dir/run.php", "twice.txt": site + "/absolute.txt",
		"out.txt": filepath.Join(base, "secret.txt"), "sibling.txt": filepath.Join(base, "site2/secret.txt"), "out.php": filepath.Join(base, "secret.php"),
		"up": "..", "root": "/", "loop": site + "/loop", "nowhere": site + "/nothing", "back": site + "/dir/../../secret.txt",
	} {
		require.NoError(t, os.Symlink(to, filepath.Join(site, name)))
	}
	for _, root := range []string{site, filepath.Join(base, "current")} {
		s := serveHandler(t, &Handler{Client: newParamsApplication(t), Root: root})
		for _, path := range []string{"/absolute.txt", "/absolute/file.txt", "/around.txt", "/current.txt", "/twice.txt"} {
			_, body := get(t, s, path)
			require.Equal(t, "inside", body, path)
		}
		resp, body := get(t, s, "/absolute.php/info")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, root+"/absolute.php", parseParams(body)["SCRIPT_FILENAME"])
		for _, path := range []string{
			"/out.txt", "/sibling.txt", "/out.php", "/up/secret.txt", "/root" + base + "/secret.txt", "/root/etc/passwd", "/loop", "/nowhere", "/back",
		} {
			resp, body := get(t, s, path)
			require.Equal(t, http.StatusNotFound, resp.StatusCode, "%s: %s", path, body)
		}
	}
}

// File names are bytes. Package fs rejects names that are not UTF-8.
func TestHandler_FileNamesThatAreNotUTF8AreServed(t *testing.T) {
	t.Parallel()
	for _, follow := range []bool{false, true} {
		root := writeFiles(t, map[string]string{"caf\xe9.txt": "latin", "d\xe9/index.html": "index", "r\xe9.php": "secret source"})
		s := serveHandler(t, &Handler{Client: newParamsApplication(t), Root: root, FollowSymlinks: follow})
		_, body := get(t, s, "/caf%E9.txt")
		require.Equal(t, "latin", body)
		resp, _ := get(t, s, "/d%E9")
		require.Equal(t, "/d%E9/", resp.Header.Get("Location"))
		_, body = get(t, s, "/d%E9/")
		require.Equal(t, "index", body)
		_, body = get(t, s, "/r%E9.php/i%E8")
		got := parseParams(body)
		require.Equal(t, root+"/r\xe9.php", got["SCRIPT_FILENAME"])
		require.Equal(t, "/i\xe8", got["PATH_INFO"])
	}
}
