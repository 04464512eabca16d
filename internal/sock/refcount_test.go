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

// A call that holds an I/O lock or waits for it is a reference. A call that stops waiting does not
// lose a lock that was handed over to it meanwhile.
func TestRefcount_LocksAreReferences(t *testing.T) {
	for _, lock := range []uint64{recvLocked, sendLocked} {
		var r Refcount
		locked, open := r.TryLock(lock)
		require.True(t, locked && open)
		locked, open = r.TryLock(lock)
		require.True(t, !locked && open)
		other, _ := r.TryLock(recvLocked ^ sendLocked ^ lock)
		require.True(t, other, "the other lock is free")
		_, _ = r.Unlock(recvLocked ^ sendLocked ^ lock)
		for range 2 {
			locked, open = r.Lock(lock)
			require.True(t, !locked && open)
		}
		require.True(t, r.StopWaiting(lock))
		_, others := r.IncrefAndClose()
		require.True(t, others)
		require.False(t, r.Decref())
		_, open = r.Lock(lock)
		require.False(t, open)
		_, open = r.TryLock(lock)
		require.False(t, open)
		handOver, last := r.Unlock(lock)
		require.True(t, handOver && !last)
		require.False(t, r.StopWaiting(lock), "it has the lock")
		handOver, last = r.Unlock(lock)
		require.True(t, !handOver && last)
	}
}

func TestRefcount_TooManyCallsPanic(t *testing.T) {
	var r Refcount
	r.word.Store(mostAtLock * sendLocked)
	require.Panics(t, func() { r.Lock(sendLocked) })
	locked, open := r.Lock(recvLocked)
	require.True(t, locked && open)
}
