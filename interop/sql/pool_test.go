package sql

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxConns is the limit of connections of the pools in these tests.
const maxConns = 4

// openDB opens a pool of database/sql on a driver, until the test ends.
func openDB(t *testing.T, connector driver.Connector) *sql.DB {
	t.Helper()
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	// The error may be that of a connection to a killed server.
	t.Cleanup(func() { require.NotErrorIs(t, limited(db.Close), errHangs) })
	return db
}

var errAnothers = errors.New("the answer belongs to another query")

// echo checks that a query returns a value.
func echo(ctx context.Context, db *sql.DB, query string, size int) error {
	want := randomBytes(size)
	var got []byte
	if err := db.QueryRowContext(ctx, query, want).Scan(&got); err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return errAnothers
	}
	return nil
}

// manyAtOnce lets several goroutines query values of all sizes.
func manyAtOnce(t *testing.T, ask func(size int) error) {
	t.Helper()
	const workers, questions = 4 * maxConns, 10
	failed := make(chan error, workers)
	require.NoError(t, limited(func() error {
		var all sync.WaitGroup
		for i := range workers {
			all.Go(func() {
				for q := range questions {
					if err := ask(1000*i + 10_000*q); err != nil {
						failed <- err
						return
					}
				}
			})
		}
		all.Wait()
		close(failed)
		return <-failed
	}))
}

// servesMany is manyAtOnce with a pool, which must reuse its connections.
func servesMany(t *testing.T, db *sql.DB, ask func(size int) error) {
	t.Helper()
	manyAtOnce(t, ask)
	s := db.Stats()
	require.LessOrEqual(t, s.OpenConnections, maxConns)
	require.Zero(t, s.MaxIdleClosed)
}
