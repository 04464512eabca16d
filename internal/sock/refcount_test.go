package sock

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRefcount_LastReferenceCloses(t *testing.T) {
	var l Refcount
	require.True(t, l.Incref())
	first, others := l.IncrefAndClose()
	require.True(t, first)
	require.True(t, others)
	first, _ = l.IncrefAndClose()
	require.False(t, first)
	require.False(t, l.Incref())
	require.False(t, l.Decref())
	require.True(t, l.Decref())

	for range 1000 {
		var l Refcount
		var last, firsts int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if l.Incref() && l.Decref() {
					mu.Lock()
					last++
					mu.Unlock()
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				if first, _ := l.IncrefAndClose(); first {
					done := l.Decref()
					mu.Lock()
					defer mu.Unlock()
					firsts++
					if done {
						last++
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, firsts)
		require.Equal(t, 1, last)
	}
}

func TestRefcount_StopIsNotClose(t *testing.T) {
	var r Refcount
	require.False(t, r.Ending())
	r.Stop()
	require.True(t, r.Ending())
	require.False(t, r.Closed())
	require.True(t, r.Incref(), "calls begin, and end at once")
	require.False(t, r.Decref(), "stopped, and still open")
	r.Resume()
	require.False(t, r.Ending())
	require.True(t, r.Incref())
	r.Stop()
	first, inUse := r.IncrefAndClose()
	require.True(t, first)
	require.True(t, inUse)
	require.True(t, r.Ending() && r.Closed())
	require.False(t, r.Decref())
	require.False(t, r.Unused())
	require.True(t, r.Decref())
	require.True(t, r.Unused(), "whether it is stopped or not")
}
