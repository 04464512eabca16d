// Package prometheus is a collector of metrics for github.com/prometheus/client_golang:
// what pools and waiting calls of package client do.
//
//	registry.MustRegister(clientmetrics.NewCollector(map[string]*client.Pool{"redis": pool}, nil))
//
// A scrape reads the counters of the pools. Between scrapes nothing runs.
//
// # Metrics
//
// Of the calls of all clients in the process:
//
//	client_waiting_calls{on="thread|poller"}   calls that wait, with a thread and without
//	client_max_threads                         the limit of the first; see client.SetMaxThreads
//	client_threads_refused_total               how often that limit kept a call from holding a thread
//	client_longest_wait_seconds                of the calls that wait in the poller
//	client_computing                           1 if the process computes; see client.SetMaxThreads
//
// Of each pool, with the label pool:
//
//	client_pool_connections{state="idle|active|dialing"}
//	client_pool_max_connections_per_key        absent: no limit
//	client_pool_waiting_callers                callers that wait because of MaxConnsPerKey
//	client_pool_longest_wait_seconds           of these
//	client_pool_waits_total                    checkouts that waited
//	client_pool_wait_seconds_total             time of these waits, once they have ended
//	client_pool_checkouts_total{connection="new|reused"}
//	client_pool_dials_total, client_pool_dial_errors_total
//	client_pool_discards_total{cause}          connections closed; see client.DiscardCause
//
// The hit rate of the last five minutes is
//
//	sum by (pool) (rate(client_pool_checkouts_total{connection="reused"}[5m]))
//	  / sum by (pool) (rate(client_pool_checkouts_total[5m]))
//
// # Metrics of each key
//
// With Options.MaxKeys there are the same metrics of each key, named client_pool_key_…
// instead of client_pool_…, with the additional labels network, address and pool_key. They
// are not the default, because the number of series is the number of keys times about 20,
// and a program may take addresses or an Options.PoolKey from its users.
package prometheus
