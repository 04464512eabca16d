package sql

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blocksock/client/interop/wire"
	"github.com/stretchr/testify/require"
)

func mysqlPoolServesMany(t *testing.T, at mariadbAt) {
	var log wire.Log
	at.dial = log.Noting(at.dial)
	db := mysqlDB(t, at)
	servesMany(t, db, func(size int) error { return mysqlEcho(t.Context(), db, size) })
	require.LessOrEqual(t, log.Dials(), maxConns)
	id := mysqlID(t, db)
	require.True(t, at.serves(t, id))
	require.NoError(t, db.Close())
	eventually(t, func() bool { return !at.serves(t, id) }, "the server has connections of the pool still")
}

// mysqlID gives the server's number of a connection of a pool.
func mysqlID(t *testing.T, db *sql.DB) (id int64) {
	t.Helper()
	require.NoError(t, db.QueryRow("SELECT CONNECTION_ID()").Scan(&id))
	return id
}

// mysqlLiveness has connections closed by the server while they are idle. Before it uses
// one that was idle the driver borrows its descriptor, as a syscall.Conn, for a read(2)
// that must not wait: EAGAIN is healthy.
func mysqlLiveness(t *testing.T, at mariadbAt) {
	for _, limit := range []time.Duration{0, time.Minute} { // which sets a deadline before the read
		var dials wire.Log
		log := new(mysqlLog)
		config := mysqlConfig(at)
		config.DialFunc, config.ReadTimeout, config.Logger = dials.Noting(at.dial), limit, log
		db := mysqlOpen(t, config)
		id := mysqlID(t, db)
		for range 20 {
			require.NoError(t, limited(func() error { return mysqlEcho(t.Context(), db, 64<<10) }))
			require.Equal(t, id, mysqlID(t, db))
		}
		require.Equal(t, 1, dials.Dials(), "what is healthy is used again")

		for range maxConns {
			dead := dials.Last()
			_, err := at.watcher.Exec(fmt.Sprintf("KILL CONNECTION %d", id))
			require.NoError(t, err)
			eventually(t, func() bool { return over(t, dead) }, "the server has not closed it")
			another := mysqlID(t, db)
			require.NotEqual(t, id, another)
			id = another
		}
		require.Equal(t, 1+maxConns, dials.Dials())
		require.Equal(t, maxConns, strings.Count(log.said(), "closing bad idle connection"), "%s", log.said())
	}
}

// over tells whether a connection has something to read, be it its end, of which it
// takes nothing. An idle one has not.
func over(t *testing.T, conn net.Conn) (is bool) {
	// Not require: the condition may run in another goroutine.
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			is = !errors.Is(err, syscall.EAGAIN)
		})
	}
	if err != nil {
		t.Error(err)
	}
	return is
}
