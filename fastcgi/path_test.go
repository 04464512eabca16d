package fastcgi

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPath_IsCleanedAndSplit(t *testing.T) {
	t.Parallel()
	php := []string{".php"}
	for in, want := range map[string]struct {
		status     int
		name, info string
		script     bool
	}{
		"/":                   {name: "/"},
		"/a.php":              {name: "/a.php", script: true},
		"/a.php/":             {name: "/a.php", info: "/", script: true},
		"/a.php/x/y":          {name: "/a.php", info: "/x/y", script: true},
		"/a.php/b.php":        {name: "/a.php", info: "/b.php", script: true},
		"/A.PhP/x":            {name: "/A.PhP", info: "/x", script: true},
		"/a.phpx":             {name: "/a.phpx"},
		"/a.php.jpg":          {name: "/a.php.jpg"},
		"/dir/":               {name: "/dir/"},
		"/a//b/./c":           {name: "/a/b/c"},
		"/a/../../../etc":     {name: "/etc"},
		"/a.php/.x":           {name: "/a.php", info: "/.x", script: true},
		"/a.ph\u212a":         {name: "/a.ph\u212a"}, // the Kelvin sign, which other systems fold to k
		"/a.\u017fphp":        {name: "/a.\u017fphp"},
		"/\u0130\u0130.php/x": {name: "/\u0130\u0130.php", info: "/x", script: true}, // shorter in lower case
		"a.php":               {status: http.StatusBadRequest},
		"":                    {status: http.StatusBadRequest},
		"/a.php\x00.jpg":      {status: http.StatusBadRequest},
		"/a\n.php":            {status: http.StatusBadRequest},
		"/a\r.php":            {status: http.StatusBadRequest},
		"/a.php/x\n":          {status: http.StatusBadRequest},
	} {
		p, status := cleanPath(in)
		require.Equal(t, want.status, status, "%q", in)
		if status != 0 {
			continue
		}
		got, script := splitPathInfo(p, php)
		require.Equal(t, want.script, script, "%q", in)
		require.Equal(t, scriptPath{name: want.name, pathInfo: want.info}, got, "%q", in)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a.php/x", "/../a", "/.x", "/a\x00", "//a.PHP//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		p, status := cleanPath(in)
		if status != 0 {
			return
		}
		got, script := splitPathInfo(p, []string{".php"})
		switch {
		case got.name+got.pathInfo != p:
			t.Fatalf("%q: %q %q", in, got.name, got.pathInfo)
		case !strings.HasPrefix(got.name, "/"), strings.ContainsAny(p, "\x00\r\n"):
			t.Fatalf("%q: %q", in, p)
		case path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/":
			t.Fatalf("%q: %q", in, p)
		case script && !strings.EqualFold(got.name[len(got.name)-4:], ".php"):
			t.Fatalf("%q: %q", in, got.name)
		}
	})
}

// WebDAV has paths with such names in PATH_INFO, and RFC 8615 has /.well-known.
func TestHandler_DotHidesFilesAndNotPathInfo(t *testing.T) {
	t.Parallel()
	contents := map[string]string{
		".well-known/security.txt": "contact", ".well-known/.secret": "secret", ".well-knownx/a": "secret", "a/.well-known/x": "secret",
		".env": "secret", "a/.git/config": "secret", ".hidden.php": "secret source", "remote.php": "secret source", "index.php": "secret source",
		".dir/index.html": "secret", "dir.php/.env": "secret",
	}
	for name, h := range map[string]*Handler{"by default": {}, "with a fallback": {Fallback: "/index.php"}, "dot files": {ServeDotFiles: true}} {
		t.Run(name, func(t *testing.T) {
			h.Root, h.Client = writeFiles(t, contents), newParamsApplication(t)
			s := serveHandler(t, h)
			_, body := get(t, s, "/remote.php/dav/files/me/.bashrc")
			require.Equal(t, "/dav/files/me/.bashrc", parseParams(body)["PATH_INFO"])
			_, body = get(t, s, "/remote.php/.well-known/.x/")
			require.Equal(t, "/.well-known/.x/", parseParams(body)["PATH_INFO"])
			_, body = get(t, s, "/.well-known/security.txt")
			require.Equal(t, "contact", body)
			resp, body := get(t, s, "/.well-known/caldav")
			if h.Fallback == "" {
				require.Equal(t, http.StatusNotFound, resp.StatusCode)
			} else {
				require.Equal(t, "/.well-known/caldav", parseParams(body)["REQUEST_URI"])
			}
			for _, path := range []string{
				"/.env", "/a/.git/config", "/.dir/", "/.dir", "/.well-known/.secret", "/.well-knownx/a", "/a/.well-known/x", "/.hidden.php",
				"//.env", "/%2eenv", "/a/../.env", "/.%2fenv",
			} {
				resp, body := get(t, s, path)
				switch {
				case path == "/.%2fenv": // equivalent to /env
					require.NotEqual(t, "secret", body)
				case !h.ServeDotFiles:
					require.Equal(t, http.StatusNotFound, resp.StatusCode, path)
				default:
					require.NotEqual(t, http.StatusNotFound, resp.StatusCode, path)
				}
			}
			_, body = get(t, s, "/dir.php/.env") // it has the name of a script and is never sent as a file
			require.NotEqual(t, "secret", body)
		})
	}
	tr := &Transport{Client: newParamsApplication(t), ScriptRoot: "/srv"}
	resp, err := (&http.Client{Transport: tr}).Get("http://x/remote.php/dav/.bashrc")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	_, err = (&http.Client{Transport: tr}).Get("http://x/.git/x.php") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "is not allowed")
}

// Redirects, and links that a script derived from SCRIPT_NAME, lacked the prefix that
// http.StripPrefix had removed.
func TestHandler_StrippedPrefixIsInRedirectsAndScriptName(t *testing.T) {
	t.Parallel()
	h := &Handler{Client: newParamsApplication(t), Root: writeFiles(t, map[string]string{"dir/index.php": "", "a.php": "", "index.html": "top", "d\u00e9 r/index.html": "x"}), Fallback: "/a.php"}
	serveHandler(t, h)
	mux := http.NewServeMux()
	mux.Handle("/blog/", http.StripPrefix("/blog", h))
	mux.Handle("/slash/", http.StripPrefix("/slash/", h))
	mux.Handle("/two/words/", http.StripPrefix("/two", http.StripPrefix("/words", h)))
	mux.Handle("/exact", http.StripPrefix("/exact", h))
	mux.Handle("/", h)
	s := httptest.NewServer(mux)
	defer s.Close()
	s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for prefix, at := range map[string]string{"/blog": "/blog", "/slash": "/slash", "/two/words": "/two/words", "": ""} {
		resp, _ := get(t, s, prefix+"/dir?x=1")
		require.Equal(t, at+"/dir/?x=1", resp.Header.Get("Location"), prefix)
		resp, _ = get(t, s, prefix+"/d%c3%a9%20r")
		require.Equal(t, at+"/d%C3%A9%20r/", resp.Header.Get("Location"), prefix)
		_, body := get(t, s, prefix+"/dir/")
		require.Equal(t, at+"/dir/index.php", parseParams(body)["SCRIPT_NAME"])
		_, body = get(t, s, prefix+"/a.php/in%66o?y")
		got := parseParams(body)
		for name, want := range map[string]string{
			"SCRIPT_NAME": at + "/a.php", "PATH_INFO": "/info", "DOCUMENT_URI": at + "/a.php/info", "SCRIPT_FILENAME": h.Root + "/a.php",
			"REQUEST_URI": prefix + "/a.php/in%66o?y", "QUERY_STRING": "y", "PATH_TRANSLATED": h.Root + "/info",
		} {
			require.Equal(t, want, got[name], prefix+" "+name)
		}
		_, body = get(t, s, prefix+"/not/there")
		require.Equal(t, at+"/a.php", parseParams(body)["SCRIPT_NAME"])
		_, body = get(t, s, prefix+"/")
		require.Equal(t, "top", body)
	}
	resp, _ := get(t, s, "/exact")
	require.Equal(t, "/exact/", resp.Header.Get("Location"))
	for _, target := range []string{"*", "x"} {
		r := httptest.NewRequest(http.MethodOptions, "/", nil)
		r.RequestURI, r.URL = target, &url.URL{Path: target}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, http.StatusBadRequest, w.Code, target)
	}
	// A path with two leading slashes would be another host's.
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RequestURI, r.URL = "//evil.example/dir", &url.URL{Path: "/dir"}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, "/evil.example/dir/", w.Header().Get("Location"))
}
