package redis

import (
	"context"
	"testing"

	"github.com/blocksock/client/internal/testleak"
	goredis "github.com/redis/go-redis/v9"
)

func TestMain(m *testing.M) {
	goredis.SetLogger(silence{})
	testleak.Main(m)
}

// silence discards a driver's log messages about servers that the tests kill.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
