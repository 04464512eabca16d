package dtls_test

import (
	"testing"
	"time"

	"github.com/blocksock/client/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// testTimeout is long enough for whatever has to happen.
const testTimeout = 20 * time.Second
