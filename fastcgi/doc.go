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
// abandoned in the middle of its response takes its connection with it. Every record is
// checked, its version, its request and its place. There is one request at a time on a
// connection: php-fpm, like most, does not do more.
//
// A script that has called fastcgi_finish_request and goes on keeps its worker, and so
// whoever is next on that connection waits for it.
package fastcgi
