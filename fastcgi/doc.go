// Package fastcgi is a FastCGI client: it has php-fpm, or whatever speaks the FastCGI
// Specification 1.0, answer requests, over connections that stay open.
//
//	php := &fastcgi.Client{Network: "unix", Address: "/run/php/php-fpm.sock"}
//	defer php.Close()
//	http.ListenAndServe(":8080", &fastcgi.Handler{Client: php, Root: "/var/www"})
//
// [Client] takes a [Request] and gives a [Response]; [Handler] serves a document root
// with it, and [Transport] is an http.RoundTripper.
//
// # Connections that stay open
//
// A connection goes from one request to the next only if nothing of the first is left
// on it: the request was sent whole, END_REQUEST and its padding were received and
// nothing behind, and it said REQUEST_COMPLETE. One that was cancelled, timed out, or
// abandoned in the middle of its response takes its connection with it. There is one
// request at a time on a connection: php-fpm, like most, does not do more.
//
// Each request of a connection has an id of its own (1…65535, and again), which the
// application repeats in every record of the answer. Records of any other id are
// dropped: after fastcgi_finish_request a script may go on writing when the connection
// has its next request. Such a script also keeps its worker, and the next request on
// that connection waits for it.
//
// A worker may end at any time, and its connection with it: see [Request.Idempotent] for
// what is sent again, and what gets a new connection for that reason.
//
// # Limits
//
// RecvTimeout is for the answer, and for each pause in it, and starts when the request
// was sent whole; SendTimeout is for an application that does not take the request, and
// [Client.BodyTimeout] for a request's body that does not come. All are 60 s by default.
// ConnectTimeout, 5 s, is for a connection, and includes the wait for one of MaxConns.
// A context bounds the whole.
package fastcgi
