package services

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blocksock/client/internal/testserver"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// natsServer is the first argument of a test binary that is to be the NATS server.
const natsServer = "nats-server"

// maxPayload is what a message may have, and more than sockets hold: what nobody reads
// is not sent whole.
const maxPayload = 32 << 20

// serveNATS is the nats-server's own main, with the arguments of its command line.
func serveNATS(args []string) {
	usage := func() { fail(errors.New("there is no usage here")) }
	opts, err := server.ConfigureOptions(flag.NewFlagSet(natsServer, flag.ExitOnError), args, usage, usage, usage)
	fail(err)
	s, err := server.NewServer(opts)
	fail(err)
	s.ConfigureLogger()
	fail(server.Run(s))
	s.WaitForShutdown()
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startNATS starts a NATS server with JetStream. Its settings are lines of its
// configuration.
func startNATS(t *testing.T, settings ...string) *testserver.Server {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	s, err := testserver.Start(testserver.Spec{
		Path: self,
		Prepare: func(s *testserver.Server) error {
			lines := append([]string{
				"listen: " + s.Addr,
				fmt.Sprint("max_payload: ", maxPayload),
				"jetstream { store_dir: " + filepath.Join(s.Dir, "js") + ", sync_interval: always }",
			}, settings...)
			return os.WriteFile(filepath.Join(s.Dir, "conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
		},
		Args: func(*testserver.Server) []string { return []string{natsServer, "-c", "conf"} },
		Ready: func(s *testserver.Server) error {
			if !strings.Contains(s.Output(), "Server is ready") { // it says so when it listens, and ends if it cannot
				return errors.New("it does not listen yet")
			}
			return nil
		},
	})
	return testserver.Serve(t, s, err)
}
