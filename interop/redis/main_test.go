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

// silence is for a driver that tells everybody of servers that are killed here on purpose.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
