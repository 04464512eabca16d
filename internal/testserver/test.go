package testserver

import (
	"errors"
	"os"
	"testing"
)

// Require ends a test that has met an error. If that is ErrNotInstalled the test is
// skipped, unless the environment has CLIENT_REQUIRE_SERVERS=1.
func Require(t testing.TB, err error) {
	t.Helper()
	switch {
	case errors.Is(err, ErrNotInstalled) && os.Getenv("CLIENT_REQUIRE_SERVERS") != "1":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
}

// Serve gives a server that was started to a test, whose end stops it. If the test has
// failed, it shows what the server said.
func Serve(t testing.TB, s *Server, err error) *Server {
	t.Helper()
	Require(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server said:\n%s", s.Output())
		}
		s.Stop()
	})
	return s
}
