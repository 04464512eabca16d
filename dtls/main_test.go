package dtls_test

import (
	"testing"
	"time"

	"github.com/blocksock/client/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// testTimeout is long enough for whatever has to happen.
const testTimeout = time.Minute

// eventually waits until something holds. It starts no goroutine.
func eventually(t testing.TB, holds func() bool, what string) {
	t.Helper()
	for begin := time.Now(); !holds(); time.Sleep(50 * time.Microsecond) {
		if time.Since(begin) > testTimeout {
			t.Fatalf("not so in %v: %s", testTimeout, what)
		}
	}
}
