package dtls_test

import (
	"testing"
)

// BenchmarkConn_RoundTrip is of 64 bytes to a server of pion's in this process and back. The
// allocations are those of both ends.
func BenchmarkConn_RoundTrip(b *testing.B) {
	c := served(b, echo)
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Send(p, 0); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Recv(p, 0); err != nil {
			b.Fatal(err)
		}
	}
}
