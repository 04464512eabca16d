// Package dtls is a DTLS 1.2 client (RFC 6347) over a UDP socket of package client.
//
// Dial connects, makes the handshake and verifies the server, within one limit. The
// server's certificate is verified as package client verifies it for TLS, with the same
// TLSOptions; a server that both sides share a key with is known by that (Options.PSK,
// RFC 4279). Send and Recv of a Conn are of one record each: a record arrives whole or
// not at all, and like any datagram it can be lost or overtaken by a later one. A record
// that arrives twice is received once.
//
// The protocol is that of github.com/pion/dtls. It allocates memory for each record and
// has four goroutines per connection, so that the rules of package client about
// allocations and system calls do not hold here. Close ends the goroutines; a Conn that
// is not closed is never collected.
//
// Not supported: DTLS 1.0 and 1.3, session resumption, renegotiation, and records of more
// than 8,192 bytes, header included, from the server.
package dtls
