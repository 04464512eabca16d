package fastcgi

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/blocksock/client"
)

// GetValues asks the application for the values of variables (FCGI_GET_VALUES). Without
// names it asks for FCGI_MAX_CONNS, FCGI_MAX_REQS and FCGI_MPXS_CONNS. The result lacks
// the variables that the application does not know. Do not rely on the numbers: php-fpm
// returns the same ones for any number of workers.
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
		return nil, fmt.Errorf("fastcgi: names of %d bytes do not fit into one record of %d bytes: ask for fewer names", len(pairs), maxContentLen)
	}
	// The connection is new and used for this alone: an application may close the
	// connection after its answer.
	conn, err := cl.pool.DialNew(ctx, cl.Network, cl.Address, cl.options)
	if err != nil {
		return nil, cl.asBusyError(ctx, err)
	}
	defer func() { _ = conn.Discard() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Discard() })()
	_ = conn.SetReadDeadline(deadlineAfter(cl.recvTimeout)) // of all receives together
	values, err := requestValues(conn, appendRecord(nil, typeGetValues, 0, pairs))
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return values, err
}

func requestValues(conn *client.Client, request []byte) (map[string]string, error) {
	if _, err := conn.Send(request, 0); err != nil {
		return nil, err
	}
	in := newRecvBuffer()
	defer in.free()
	p := in.next()
	for ; p == nil; p = in.next() {
		if err := in.receive(conn); errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
	}
	r, err := parseRecord(p)
	if err != nil {
		return nil, err
	}
	if r.typ != typeGetValuesResult || r.id != 0 {
		return nil, &ProtocolError{Reason: fmt.Sprintf("%v in answer to GET_VALUES", r.typ), Head: firstBytes(p)}
	}
	return parsePairs(r.content)
}
