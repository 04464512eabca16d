// Package services runs the drivers of memcached, NATS and DNS.
package services

import (
	"os"
	"testing"

	"github.com/blocksock/client/internal/testleak"
)

// TestMain is also the NATS server, which has to be another process: one that can be
// killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == natsServer {
		serveNATS(os.Args[2:])
		return
	}
	testleak.Main(m)
}
