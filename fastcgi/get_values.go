package fastcgi

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/blocksock/client"
)

// GetValues asks the application for what it can do: FCGI_MAX_CONNS, FCGI_MAX_REQS and
// FCGI_MPXS_CONNS, or others by their names. One that it does not know is not in the
// answer. The answer is the application's opinion: php-fpm says the same for any
// number of workers.
func (cl *Client) GetValues(ctx context.Context, names ...string) (map[string]string, error) {
	cl.init()
	if len(names) == 0 {
		names = []string{"FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS"}
	}
	var pairs []byte
	for _, name := range names {
		pairs = appendPair(pairs, name, "")
	}
	if len(pairs) > maxContentLen {
		return nil, fmt.Errorf("fastcgi: names of %d bytes do not fit into a record", len(pairs))
	}
	// A new connection, and only for this: who answers may close it afterwards.
	c, err := cl.pool.DialNew(ctx, cl.Network, cl.Address, cl.options)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Discard() }()
	defer context.AfterFunc(ctx, func() { _ = c.Discard() })()
	values, err := requestValues(c, appendRecord(nil, typeGetValues, 0, pairs))
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return values, err
}

func requestValues(c *client.Client, question []byte) (map[string]string, error) {
	if _, err := c.Send(question, 0); err != nil {
		return nil, err
	}
	p, err := c.RecvPacket()
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(p)
	if err != nil {
		return nil, err
	}
	if r.typ != typeGetValuesResult || r.id != 0 {
		return nil, &ProtocolError{Reason: fmt.Sprintf("%v where values were asked for", r.typ), Head: firstBytes(p)}
	}
	return parsePairs(r.content)
}
