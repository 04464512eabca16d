package sql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// echoes are values that are sent to the server, each to be sent back, before any answer
// is asked for. No buffers on the way hold them, so that both ends would wait for each
// other for ever to take what they send; but pgx takes, on another goroutine, while it
// sends.
func echoes() [][]byte {
	values := make([][]byte, 256)
	for i := range values {
		values[i] = randomBytes(64 << 10)
	}
	return values
}

func pgxBatch(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	values := echoes()
	var batch pgx.Batch
	for _, v := range values {
		batch.Queue("SELECT $1::bytea", v)
	}
	require.NoError(t, limited(func() error {
		results := conn.SendBatch(t.Context(), &batch)
		for i, v := range values {
			var got []byte
			if err := results.QueryRow().Scan(&got); err != nil {
				return err
			}
			if !bytes.Equal(v, got) {
				return fmt.Errorf("answer %d belongs to another query", i)
			}
		}
		return results.Close()
	}))
	works(t, conn)
}

func pgxPipeline(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	values := echoes()
	binary := []int16{pgx.BinaryFormatCode}
	require.NoError(t, limited(func() error {
		pipeline := conn.PgConn().StartPipeline(t.Context())
		for _, v := range values {
			pipeline.SendQueryParams("SELECT $1::bytea", [][]byte{v}, nil, binary, binary)
		}
		if err := pipeline.Sync(); err != nil {
			return err
		}
		for i, v := range values {
			results, err := pipeline.GetResults()
			if err != nil {
				return err
			}
			got := results.(*pgconn.ResultReader).Read()
			if got.Err != nil {
				return got.Err
			}
			if !bytes.Equal(v, got.Rows[0][0]) {
				return fmt.Errorf("answer %d belongs to another query", i)
			}
		}
		return pipeline.Close()
	}))
	works(t, conn)
}

func pgxCopy(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	_, err := conn.Exec(t.Context(), "CREATE TEMP TABLE copied (i int, v text); CREATE TEMP TABLE again (LIKE copied)")
	require.NoError(t, err)
	const count = 10_000
	var want bytes.Buffer
	rows := make([][]any, count)
	for i := range rows {
		text := strings.Repeat(fmt.Sprintf("%06d.", i), 1+i%60)
		fmt.Fprintf(&want, "%d\t%s\n", i, text)
		rows[i] = []any{int32(i), text}
	}
	n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"copied"}, []string{"i", "v"}, pgx.CopyFromRows(rows))
	require.NoError(t, err)
	require.EqualValues(t, count, n)

	var got bytes.Buffer
	tag, err := conn.PgConn().CopyTo(t.Context(), &got, "COPY (TABLE copied ORDER BY i) TO STDOUT")
	require.NoError(t, err)
	require.EqualValues(t, count, tag.RowsAffected())
	same(t, want.Bytes(), got.Bytes())

	tag, err = conn.PgConn().CopyFrom(t.Context(), &want, "COPY again FROM STDIN")
	require.NoError(t, err)
	require.EqualValues(t, count, tag.RowsAffected())
	var others int
	require.NoError(t, conn.QueryRow(t.Context(),
		"SELECT count(*) FROM (TABLE copied EXCEPT ALL TABLE again) missing").Scan(&others))
	require.Zero(t, others)
}

func pgxCopyRefused(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	_, err := conn.Exec(t.Context(), "CREATE TEMP TABLE numbers (i int)")
	require.NoError(t, err)
	// The error comes while pgx is sending still.
	what := io.MultiReader(strings.NewReader("1\nno number\n"), bytes.NewReader(bytes.Repeat([]byte("2\n"), 4<<20)))
	var pgErr *pgconn.PgError
	require.ErrorAs(t, limited(func() error {
		_, err := conn.PgConn().CopyFrom(t.Context(), what, "COPY numbers FROM STDIN")
		return err
	}), &pgErr)
	require.Equal(t, "22P02", pgErr.Code) // it is no number
	works(t, conn)
}

func pgxCopyCancelled(t *testing.T, at postgresAt) {
	conn := pgxConn(t, at)
	_, err := conn.Exec(t.Context(), "CREATE TEMP TABLE numbers (i int)")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	given := 0
	endless := readerFunc(func(p []byte) (int, error) {
		if given += len(p) &^ 1; given > 4<<20 {
			cancel()
		}
		return copy(p, bytes.Repeat([]byte("2\n"), len(p)/2)), nil
	})
	err = limited(func() error {
		_, err := conn.PgConn().CopyFrom(ctx, endless, "COPY numbers FROM STDIN")
		return err
	})
	// Of pgx's two goroutines one closes the connection, and the other may notice first.
	require.True(t, errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed), "%v", err)
	require.True(t, conn.IsClosed())
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
