package web

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/testleak"
)

// TestMain also runs the server that the tests kill: the test binary starts itself again with
// helperProcess in its environment.
func TestMain(m *testing.M) {
	part, argument, _ := strings.Cut(os.Getenv(helperProcess), " ")
	switch part {
	case "":
		testleak.Main(m)
	case "echo":
		fmt.Fprintln(os.Stderr, serveEcho(argument))
		os.Exit(1)
	}
}

const helperProcess = "WEB_TEST_HELPER"
