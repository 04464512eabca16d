// Package debug shows what pools and waiting calls of a running program do.
//
//	h := debug.NewHandler(map[string]*client.Pool{"redis": pool})
//	defer h.Close()
//	mux.Handle("/debug/client", h)
//
// The page shows for each pool and each of its keys the connections (idle, in use, being
// dialled), the callers that wait, the part of the checkouts that used a connection again,
// and why connections were closed, with plots of the last ten minutes. Above it are the
// threads that calls hold, the calls that wait without one, and those that have waited for
// the longest time. Of each pool the 50 keys with the most checkouts are shown, and the sums
// of all. The page has no script and loads nothing.
//
// The same is JSON at ?format=json, and a variable of package expvar:
//
//	expvar.Publish("client", h)
//
// # Who may see it
//
// The page is for operators. It shows addresses and each Options.PoolKey. It shows neither
// what is sent nor passwords, certificates and proxies. Serve it on loopback only, or
// require authentication in front of it: the Handler does not ask who the client is.
//
// # What it costs
//
// A Handler reads the counters of its pools every 5 s from NewHandler to Close, so that the
// plots have a past when somebody first looks. A sample takes some 0.1 ms for a thousand
// keys of a pool. The past takes up to 1 MB for each pool, and 0.3 KB for each of its keys.
// No goroutine runs between two samples.
// A program without a Handler pays nothing.
package debug
