// Package dtls is a DTLS 1.2 client (RFC 6347) over a UDP socket of package client.
//
// Dial connects, makes the handshake and verifies the server, within one limit. It verifies
// the server's certificate as package client does for TLS, with the same TLSOptions. A server
// with a pre-shared key needs no certificate (Options.PSK, RFC 4279). Send and Recv transfer
// one record each. A record arrives whole or not at all. Like any datagram it can be lost or
// reordered; a duplicate is dropped.
//
// The protocol's implementation is github.com/pion/dtls. It allocates memory for each record
// and has goroutines for each connection, four with this package's own. Close ends them; a
// Conn that is unreachable but not closed is not collected.
//
// Not supported: DTLS 1.0 and 1.3, session resumption, renegotiation, and records of more
// than 8,192 bytes, header included, from the server.
package dtls
