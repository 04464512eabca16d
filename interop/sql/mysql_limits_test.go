package sql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

// mysqlSleep is a query that takes a minute, with a text in it to know it by.
func mysqlSleep(text string) string { return "SELECT SLEEP(60) /* " + text + " */" }

// The driver closes a connection whose call is cancelled, while another goroutine of its
// reads. The server is not told, and sleeps on.
func mysqlCancelled(t *testing.T, at mariadbAt) {
	db := mysqlDB(t, at)
	for range 3 {
		text := unique("cancelled")
		err := cancelled(t, func() bool { return at.waits(t, text) }, func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, mysqlSleep(text))
			return err
		})
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, mysqlEcho(t.Context(), db, 1<<20))
	}
}

func mysqlDeadline(t *testing.T, at mariadbAt) {
	db := mysqlDB(t, at)
	require.NoError(t, db.Ping()) // so that it is the query that the deadline ends
	require.ErrorIs(t, expired(t, func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, mysqlSleep("deadline"))
		return err
	}), context.DeadlineExceeded)
	require.NoError(t, mysqlEcho(t.Context(), db, 1<<20))
}

// A mysqlLog is where the driver says what went wrong. That it was a timeout is in there
// alone: the error of the call is mysql.ErrInvalidConn.
type mysqlLog struct {
	mu   sync.Mutex
	errs []error
	text bytes.Buffer
}

func (l *mysqlLog) Print(v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(&l.text, v...)
	for _, what := range v {
		if err, is := what.(error); is {
			l.errs = append(l.errs, err)
		}
	}
}

// err gives all errors that were logged, as one.
func (l *mysqlLog) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

func (l *mysqlLog) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func mysqlReadTimeout(t *testing.T, at mariadbAt) {
	config, log := mysqlConfig(at), new(mysqlLog)
	config.ReadTimeout, config.Logger = time.Second, log // which is for all that the server says
	db := mysqlOpen(t, config)
	require.NoError(t, mysqlEcho(t.Context(), db, 64<<10))
	start := time.Now()
	require.ErrorIs(t, limited(func() error {
		_, err := db.Exec(mysqlSleep("timeout"))
		return err
	}), mysql.ErrInvalidConn)
	require.GreaterOrEqual(t, time.Since(start), config.ReadTimeout)
	require.ErrorIs(t, log.err(), os.ErrDeadlineExceeded)
	require.NoError(t, mysqlEcho(t.Context(), db, 64<<10))
}

// mysqlWriteTimeout sends more than the buffers hold to a server that takes nothing.
func mysqlWriteTimeout(t *testing.T, at mariadbAt) {
	config := mysqlConfig(at)
	config.WriteTimeout = 150 * time.Millisecond
	db := mysqlOpen(t, config)
	query := "SELECT '" + strings.Repeat("x", 15<<20) + "'"
	require.NoError(t, db.Ping())
	require.NoError(t, at.Signal(syscall.SIGSTOP))
	start := time.Now()
	err := limited(func() error {
		_, err := db.Exec(query)
		return err
	})
	took := time.Since(start)
	require.NoError(t, at.Signal(syscall.SIGCONT))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, took, config.WriteTimeout)
	require.NoError(t, mysqlEcho(t.Context(), db, 64<<10))
}

func TestMySQL_ConnectToSilentServerTimesOut(t *testing.T) {
	address := silent(t)
	onBoth(t, func(t *testing.T, dial wire.DialFunc) {
		db := mysqlDB(t, mariadbAt{network: "tcp", address: address, dial: dial})
		require.ErrorIs(t, expired(t, db.PingContext), context.DeadlineExceeded)
	})
}

func TestMySQL_OutlivesServerRestart(t *testing.T) {
	m := startMariaDB(t)
	m.onEachWay(t, []mariadbScenario{
		{"a pool works again", func(t *testing.T, at mariadbAt) {
			db := mysqlDB(t, at)
			survives(t, m.Server, func() error { return mysqlEcho(context.Background(), db, 20_000) })
		}},
		{"who waits is told", func(t *testing.T, at mariadbAt) {
			m.watch(t)
			db := mysqlDB(t, at)
			text := unique("killed")
			killed(t, m.Server, func() bool { return m.waits(t, text) }, func() error {
				_, err := db.Exec(mysqlSleep(text))
				return err
			})
		}},
	})
}
