// Package fastcgi is a FastCGI client. It sends requests to php-fpm, or to any other
// application that speaks the FastCGI Specification 1.0, over persistent connections.
//
//	php := &fastcgi.Client{Network: "unix", Address: "/run/php/php-fpm.sock"}
//	defer php.Close()
//	http.ListenAndServe(":8080", &fastcgi.Handler{Client: php, Root: "/var/www"})
//
// A [Client] sends a [Request] and returns a [Response]. [Handler] is an http.Handler that
// serves a document root. [Transport] is an http.RoundTripper.
//
// # Persistent connections
//
// A connection is used for another request only if the previous request has ended
// completely: the request was sent whole, the application answered with END_REQUEST and
// REQUEST_COMPLETE, and no data followed. If a request is canceled, times out, or if its
// response is not read to the end, its connection is closed. A connection carries one
// request at a time, because php-fpm does not multiplex.
//
// Each request on a connection has its own request ID, from 1 to 65535. Records with
// another ID are dropped. They occur because a PHP script may write after
// fastcgi_finish_request, when the next request has already been sent on the same
// connection. Such a script also occupies its worker, so that the next request on that
// connection waits until the script ends.
//
// A worker may exit at any time and close its connection. [Request.Idempotent] says which
// requests are then sent again, and which requests use a new connection for that reason.
//
// # Timeouts
//
// Options.RecvTimeout bounds the wait for the response, counted from the end of the
// request, and then the wait between two records. Options.SendTimeout bounds the time in
// which the application reads nothing of the request. [Client.BodyTimeout] bounds each
// Read of the request's body. The default of these three is 60 s. Options.ConnectTimeout
// bounds the wait for a connection, including the wait for a free one of MaxConns. Its
// default is 5 s. A context bounds the whole request.
package fastcgi
