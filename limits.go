package client

import "time"

// Limits are the time limits of a client's calls, as in Options. In SetLimits, a field that
// is zero leaves that limit as it is. Negative: no limit.
type Limits struct {
	ConnectTimeout time.Duration // of Connect and StartTLS
	RecvTimeout    time.Duration // of Recv, RecvFrom, RecvBatch, RecvPacket and Drain
	SendTimeout    time.Duration // of Send, SendTo, SendBatch, SendPacket, SendFile and the like
}

// SetLimits changes the limits that Options gave the client, and returns the previous ones,
// with their defaults. A call that has begun keeps its limit; SetDeadline ends that too. Read
// and Write have no limit but their deadlines.
//
// For one call, or for a few, set the limits and restore them:
//
//	defer c.SetLimits(c.SetLimits(client.Limits{RecvTimeout: time.Minute}))
//
// The limits are those of the client for all goroutines. Goroutines that need different limits
// at the same time use deadlines or Watch.
//
// The limits of a client from a Pool do not stay with its connection: each client that
// Pool.Dial returns has the limits of the Options it was dialled with.
func (c *Client) SetLimits(l Limits) (previous Limits) {
	for {
		changed := c.changedLimits.Load()
		old := c.limits()
		now := limits{
			connect: durationOr(l.ConnectTimeout, old.connect),
			recv:    durationOr(l.RecvTimeout, old.recv),
			send:    durationOr(l.SendTimeout, old.send),
		}
		if c.changedLimits.CompareAndSwap(changed, &now) {
			return Limits{ConnectTimeout: old.connect, RecvTimeout: old.recv, SendTimeout: old.send}
		}
	}
}

// limits are the limits of the calls that begin now.
func (c *Client) limits() limits {
	if l := c.changedLimits.Load(); l != nil {
		return *l
	}
	return c.initialLimits
}
