package client

import (
	"strconv"
	"testing"
)

// How long Stats stops checkouts.
func BenchmarkPoolStats(b *testing.B) {
	for _, keys := range []int{1, 100, 10_000} {
		b.Run(strconv.Itoa(keys), func(b *testing.B) {
			p := NewPool(PoolOptions{})
			for i := range keys {
				p.bucketLocked(connKey{network: "tcp", address: strconv.Itoa(i)}, &Options{})
			}
			b.ReportAllocs()
			for b.Loop() {
				p.Stats()
			}
		})
	}
}
