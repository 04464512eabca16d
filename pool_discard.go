package client

import "fmt"

// A DiscardCause says why a Pool closed a connection.
type DiscardCause int

// The causes. DiscardNone is the zero value.
const (
	DiscardNone        DiscardCause = iota // it was not closed
	DiscardDead                            // the peer had closed or reset it while no call was under way
	DiscardUnclean                         // it had unread data or an outstanding answer
	DiscardIdleTimeout                     // PoolOptions.IdleTimeout was over
	DiscardMaxLifetime                     // PoolOptions.MaxLifetime was over
	DiscardFailed                          // a call on it had failed, was under way or had changed the connection
	DiscardOverLimit                       // MaxIdle, MaxIdlePerKey or MaxConnsPerKey was exceeded
	DiscardSetup                           // PoolOptions.Setup failed; DialErrors counts it too
	DiscardByCaller                        // Client.Discard, after calls that did not fail
	DiscardCloseIdle                       // Pool.CloseIdle
	DiscardPoolClosed                      // Pool.Close
	numDiscardCauses
)

// String returns the cause in lower case, without spaces, as for a label of a metric.
func (c DiscardCause) String() string {
	if c < 0 || c >= numDiscardCauses {
		return fmt.Sprintf("DiscardCause(%d)", int(c))
	}
	return discardCauses[c]
}

var discardCauses = [numDiscardCauses]string{
	DiscardNone:        "none",
	DiscardDead:        "dead",
	DiscardUnclean:     "unclean",
	DiscardIdleTimeout: "idle_timeout",
	DiscardMaxLifetime: "max_lifetime",
	DiscardFailed:      "failed",
	DiscardOverLimit:   "over_limit",
	DiscardSetup:       "setup",
	DiscardByCaller:    "by_caller",
	DiscardCloseIdle:   "close_idle",
	DiscardPoolClosed:  "pool_closed",
}

// DiscardCounts count the connections that a Pool has closed. The index is the cause:
//
//	for cause, n := range stats.Discards {
//		fmt.Println(client.DiscardCause(cause), n)
//	}
type DiscardCounts [numDiscardCauses]uint64

// Total returns the sum of all causes.
func (c DiscardCounts) Total() (sum uint64) {
	for _, n := range c {
		sum += n
	}
	return sum
}
