package report

import (
	"fmt"
	"slices"

	"github.com/blocksock/client/bench/internal/contest"
)

// A target is a bound of a figure, and the figure that was measured.
type target struct {
	name     string
	target   string
	measured string
	reached  bool
	short    float64 // the factor by which the target was missed
}

// targets returns the targets whose cases were run.
func (v *view) targets() (all []target) {
	atLeast := func(what string, need, figure float64) {
		all = append(all, target{what, fmt.Sprintf("≥ %.3g", need), fmt.Sprintf("%.2f", figure), figure >= need, need / figure})
	}
	atMost := func(what string, need, figure float64) {
		all = append(all, target{what, fmt.Sprintf("≤ %.3g", need), fmt.Sprintf("%.2f", figure), figure <= need, figure / need})
	}
	for _, kind := range []string{"spin", "slices"} {
		for _, n := range []int{2, 4} {
			name := fmt.Sprintf("100µs away, %s × %d", kind, n*v.Environment.CPUs)
			c := v.at[[2]string{"b", name}]
			if of, beside := c.peer("client"), c.peer("net"); of != nil && beside != nil {
				atLeast(name+": p50 of net / client", 30, float64(beside.percentile(50))/float64(of.percentile(50)))
				atMost(name+": p99 of client / net", 1, float64(of.percentile(99))/float64(beside.percentile(99)))
			}
		}
	}
	one := v.at[[2]string{"a", "unix, 64 B, 1 at once"}]
	if of, beside, limit := one.peer("client"), one.peer("net"), one.peer("C"); of != nil && beside != nil && limit != nil {
		atLeast("unix, 64 B, 1 at once: throughput of client / C", 0.9, ratio(of, limit, rate))
		atLeast("unix, 64 B, 1 at once: throughput of client / net", 1.1, ratio(of, beside, rate))
		atMost("unix, 64 B, 1 at once: CPU time of client / net", 0.85, ratio(of, beside, cpu))
	}
	for _, network := range []string{"unix", "tcp"} {
		name := network + ", 64 B, 64 at once"
		c := v.at[[2]string{"a", name}]
		if of, beside := c.peer("client"), c.peer("net"); of != nil && beside != nil {
			atLeast(name+": throughput of client / net", 0.9, ratio(of, beside, rate))
		}
	}
	for _, t := range []struct {
		name, peer string
		need       float64
	}{
		{"send, 1200 B", "client, segments", 5},
		{"send and receive, 1200 B", "client, segments and GRO", 8},
	} {
		c := v.at[[2]string{"l", t.name}]
		if of, beside := c.peer(t.peer), c.peer("net"); of != nil && beside != nil {
			atLeast(t.name+": CPU time of net / "+t.peer, t.need, ratio(beside, of, cpu))
		}
	}
	for _, c := range v.cases {
		switch c.group {
		case "i", "j":
			net := c.onNet()
			if net == nil {
				continue
			}
			for _, of := range c.peers {
				if of == net {
					continue
				}
				atLeast(fmt.Sprintf("%s: throughput of %s / %s", c.name, of.name, net.name), 0.95, ratio(of, net, rate))
				atMost(fmt.Sprintf("%s: p99 of %s / %s", c.name, of.name, net.name), 1.2,
					float64(of.percentile(99))/float64(net.percentile(99)))
			}
		case "k":
			if of, alone := c.peer("client"), c.peer(noIO); of != nil && alone != nil && of.rounds[0].Spec.Procs > v.Environment.CPUs {
				atLeast(c.name+": computing kept beside client / no I/O", 0.9, ratio(of, alone, computed))
			}
		case "c":
			if of, net := c.peer("client"), c.peer("net"); of != nil && net != nil {
				atLeast(c.name+": throughput of client / net", 1, ratio(of, net, rate))
			}
		case "d":
			scanner := c.peer("bufio.Scanner, lines")
			if scanner == nil || c.spec.Reply != 64 {
				continue
			}
			if of := c.peer("client, lines"); of != nil {
				atLeast(c.name+": rate of RecvPacket / bufio.Scanner", 0.6, ratio(of, scanner, rate))
			}
			if of := c.peer("client, Packets, lines"); of != nil {
				atLeast(c.name+": rate of Packets / bufio.Scanner", 1, ratio(of, scanner, rate))
			}
		case "e":
			if of := c.peer("client.Pool"); of != nil && c.spec.Conns == 64 {
				switch redis := c.peer("go-redis on net"); {
				case redis != nil:
					atLeast(c.name+": throughput of client.Pool / go-redis on net", 1, ratio(of, redis, rate))
				case c.spec.Work == "checkout":
					atMost(c.name+": allocations of client.Pool", 2, of.median(allocs))
				}
			}
		case "g":
			if of, caddy := c.peer("fastcgi"), c.peer("caddy"); of != nil && caddy != nil {
				atLeast(c.name+": rate of fastcgi / caddy", 2, ratio(of, caddy, rate))
			}
		case "m":
			of, net, gnet := c.peer("client.AsyncClient"), c.peer("net, a goroutine each"), c.peer("gnet")
			if of == nil || net == nil || gnet == nil {
				continue
			}
			atMost(c.name+": CPU time of AsyncClient / net", 1.1, ratio(of, net, cpu))
			atMost(c.name+": CPU time of AsyncClient / gnet", 1, ratio(of, gnet, cpu))
			atMost(c.name+": allocations of AsyncClient", 0.05, of.median(allocs))
			atMost(c.name+": threads of AsyncClient - those of net", 8, of.median(threads)-net.median(threads))
			if c.spec.Conns >= 10_000 { // with fewer, what all share weighs more
				atMost(c.name+": KB of heap and stack for each idle AsyncClient", 6, of.median(perConn(memory)))
			}
		}
	}
	if of := one.peer("client"); of != nil && of.calls != nil {
		n := networkCalls(of.calls)
		all = append(all, target{"unix, 64 B, 1 at once: network system calls per round trip", "2", fmt.Sprintf("%.2f", n), n < 2.005, n / 2})
	}
	return all
}

// onNet returns the peer of groups i and j that uses package net.
func (c *caseView) onNet() *peerView {
	for _, name := range []string{"net", "go-redis on net", "net/http"} {
		if p := c.peer(name); p != nil {
			return p
		}
	}
	return nil
}

// networkCalls counts the system calls that read, write or wait for a socket.
func networkCalls(each map[string]float64) (n float64) {
	for _, name := range []string{
		"sendto", "recvfrom", "sendmsg", "recvmsg", "read", "write", "readv", "writev",
		"poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl",
	} {
		n += each[name]
	}
	return n
}

// peersOf returns the names of a group's peers, in the order in which they appear.
func (v *view) peersOf(group string) (names []string) {
	for _, c := range v.cases {
		for _, p := range c.peers {
			if c.group == group && !slices.Contains(names, p.name) {
				names = append(names, p.name)
			}
		}
	}
	return names
}

// titleOf returns the title of a group.
func titleOf(letter string) string {
	for _, g := range contest.Groups {
		if g.Letter == letter {
			return g.Title
		}
	}
	return letter
}
