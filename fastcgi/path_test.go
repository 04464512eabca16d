package fastcgi

import (
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPaths(t *testing.T) {
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
		"/.php":               {status: http.StatusNotFound},
		"/.git/config":        {status: http.StatusNotFound},
		"/a/.env":             {status: http.StatusNotFound},
		"/a.php/.x":           {status: http.StatusNotFound},
		"/a.ph\u212a":         {name: "/a.ph\u212a"}, // a sign that folds to k elsewhere
		"/a.\u017fphp":        {name: "/a.\u017fphp"},
		"/\u0130\u0130.php/x": {name: "/\u0130\u0130.php", info: "/x", script: true}, // shorter in lower case
		"a.php":               {status: http.StatusBadRequest},
		"":                    {status: http.StatusBadRequest},
		"/a.php\x00.jpg":      {status: http.StatusBadRequest},
		"/a\n.php":            {status: http.StatusBadRequest},
		"/a\r.php":            {status: http.StatusBadRequest},
		"/a.php/x\n":          {status: http.StatusBadRequest},
	} {
		p, status := clean(in)
		require.Equal(t, want.status, status, "%q", in)
		if status != 0 {
			continue
		}
		got, script := split(p, php)
		require.Equal(t, want.script, script, "%q", in)
		require.Equal(t, target{name: want.name, info: want.info}, got, "%q", in)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a.php/x", "/../a", "/.x", "/a\x00", "//a.PHP//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		p, status := clean(in)
		if status != 0 {
			return
		}
		got, script := split(p, []string{".php"})
		switch {
		case got.name+got.info != p:
			t.Fatalf("%q: %q %q", in, got.name, got.info)
		case !strings.HasPrefix(got.name, "/"), strings.ContainsAny(p, "\x00\r\n"), strings.Contains(p, "/."):
			t.Fatalf("%q: %q", in, p)
		case path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/":
			t.Fatalf("%q: %q", in, p)
		case script && !strings.EqualFold(got.name[len(got.name)-4:], ".php"):
			t.Fatalf("%q: %q", in, got.name)
		}
	})
}
