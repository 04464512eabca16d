package debug_test

import (
	"testing"

	"github.com/blocksock/client/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }
