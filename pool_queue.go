package client

// A waiterQueue is a doubly linked list of waiters, in FIFO order.
type waiterQueue struct {
	n           int
	first, last *waiter
}

func (q *waiterQueue) pushBack(w *waiter) {
	w.queued, w.ahead = true, q.last
	if q.last != nil {
		q.last.behind = w
	} else {
		q.first = w
	}
	q.last = w
	q.n++
}

func (q *waiterQueue) pushFront(w *waiter) {
	w.queued, w.behind = true, q.first
	if q.first != nil {
		q.first.ahead = w
	} else {
		q.last = w
	}
	q.first = w
	q.n++
}

func (q *waiterQueue) remove(w *waiter) {
	if w.ahead != nil {
		w.ahead.behind = w.behind
	} else {
		q.first = w.behind
	}
	if w.behind != nil {
		w.behind.ahead = w.ahead
	} else {
		q.last = w.ahead
	}
	w.queued, w.ahead, w.behind = false, nil, nil
	q.n--
}
