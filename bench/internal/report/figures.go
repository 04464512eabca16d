package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/blocksock/client/bench/internal/contest"
	"github.com/blocksock/client/bench/internal/worker"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
)

// A figure is one of the ten on the first page: a plot, and one sentence with its numbers. draw
// returns nil if there are no results.
type figure struct {
	file, title string
	draw        func(*view) (picture *plot.Plot, says string, err error)
}

// shown is a figure with its sentence.
type shown struct {
	figure
	says string
}

var figures = []figure{
	{"figure-busy.svg", "A round trip in a process that computes", busyFigure},
	{"figure-price.svg", "What that costs the computing goroutines", priceFigure},
	{"figure-machine.svg", "On a machine that others use", machineFigure},
	{"figure-cpu.svg", "CPU time of a round trip", cpuFigure},
	{"figure-events.svg", "Event-driven: CPU time of a round trip", eventsFigure},
	{"figure-memory.svg", "Memory of a connection that waits", memoryFigure},
	{"figure-pool.svg", "Requests to Redis through a pool", poolFigure},
	{"figure-packets.svg", "Packets", packetsFigure},
	{"figure-datagrams.svg", "Datagrams in batches", datagramsFigure},
	{"figure-fastcgi.svg", "Pages of PHP", fastcgiFigure},
}

// casesOf returns the cases of a group for which match is true.
func (v *view) casesOf(group string, match func(*caseView) bool) (all []*caseView) {
	for _, c := range v.cases {
		if c.group == group && match(c) {
			all = append(all, c)
		}
	}
	return all
}

// largest returns the case with the most connections, or nil.
func largest(all []*caseView) (most *caseView) {
	for _, c := range all {
		if most == nil || c.spec.Conns > most.spec.Conns {
			most = c
		}
	}
	return most
}

func busyFigure(v *view) (*plot.Plot, string, error) {
	cases := v.casesOf("b", func(c *caseView) bool {
		return strings.HasPrefix(c.name, "100µs away") && c.spec.Conns <= 1 && (c.spec.Busy == worker.Spin || c.spec.BusyCount == 0)
	})
	var curves []curve
	for _, peer := range []string{"net", "client"} {
		half, tail := halfAndTail(peer)
		for _, c := range cases {
			if p := c.peer(peer); p != nil {
				half.points = append(half.points, plotter.XY{X: float64(c.spec.BusyCount), Y: logMicros(p, 50)})
				tail.points = append(tail.points, plotter.XY{X: float64(c.spec.BusyCount), Y: logMicros(p, 99)})
			}
		}
		if len(half.points) > 0 {
			curves = append(curves, half, tail)
		}
	}
	if len(curves) == 0 {
		return nil, "", nil
	}
	p, err := panel("", "goroutines that loop", "round trip, 0.1 ms away", curves)
	if err != nil {
		return nil, "", err
	}
	logTimes(&p.Y, 100, 1e6)
	p.X.Tick.Marker = ticksAt(cases, func(c *caseView) string { return fmt.Sprint(c.spec.BusyCount) },
		func(_ int, c *caseView) float64 { return float64(c.spec.BusyCount) })
	says := ""
	for _, c := range cases {
		net, of := c.peer("net"), c.peer("client")
		if c.spec.BusyCount > 0 && net != nil && of != nil && (says == "" || c.spec.BusyCount <= 2*v.Environment.CPUs) {
			says = fmt.Sprintf("p50 beside %d goroutines: client **%s**, net %s", c.spec.BusyCount, short(of.percentile(50)), short(net.percentile(50)))
		}
	}
	return p, says, nil
}

func priceFigure(v *view) (*plot.Plot, string, error) {
	const conns = 8
	p, err := pricePanel(v, conns, 50)
	if p == nil {
		return nil, "", err
	}
	var all []string
	for _, c := range v.casesOf("k", func(c *caseView) bool { return c.spec.Conns == conns && c.spec.Procs <= 2*v.Environment.CPUs }) {
		of, net := c.peer("client"), c.peer("net")
		if of != nil && net != nil && c.peer(noIO) != nil {
			all = append(all, fmt.Sprintf("%s (net %s) at %d", c.kept(of), c.kept(net), c.spec.Procs))
		}
	}
	return p, "Computing kept beside 8 connections, by GOMAXPROCS: " + strings.Join(all, ", "), nil
}

func machineFigure(v *view) (*plot.Plot, string, error) {
	const conns = 64
	network := func(c *caseView) bool { return c.spec.Conns == conns && c.spec.Network == "tcp" }
	curves := []curve{{peer: "net"}}
	var besides []int
	var says []string
	for _, d := range []struct{ group, work, of, net string }{
		{"i", "roundtrip", "client", "net"},
		{"j", "ask", "go-redis on client", "go-redis on net"},
		{"j", "get", "net/http on client", "net/http"},
	} {
		line := curve{peer: d.of, name: strings.TrimSuffix(d.of, " on client"), dashed: d.work == "ask"}
		for _, c := range v.casesOf(d.group, network) {
			of, net := c.peer(d.of), c.peer(d.net)
			if c.spec.Work != d.work || of == nil || net == nil {
				continue
			}
			x, y := float64(len(line.points)), ratio(of, net, rate)
			line.points = append(line.points, plotter.XY{X: x, Y: y})
			if len(line.points) > len(besides) {
				besides = append(besides, c.spec.Beside)
				curves[0].points = append(curves[0].points, plotter.XY{X: x, Y: 1})
			}
			if c.spec.Beside == 8 {
				says = append(says, fmt.Sprintf("%s **%.2f**", line.name, y))
			}
		}
		if len(line.points) > 0 {
			curves = append(curves, line)
		}
	}
	if len(curves) == 1 {
		return nil, "", nil
	}
	p, err := panel("", "computing processes beside it", "throughput / that on net", curves)
	if err != nil {
		return nil, "", err
	}
	p.Y.Min, p.Y.Max = 0, max(p.Y.Max, 1.2)
	p.X.Tick.Marker = ticksAt(besides, func(n int) string { return fmt.Sprint(n) }, func(i, _ int) float64 { return float64(i) })
	return p, "Throughput relative to net, 64 at once, beside 8 processes: " + strings.Join(says, ", "), nil
}

func cpuFigure(v *view) (*plot.Plot, string, error) {
	cases := v.casesOf("a", func(c *caseView) bool { return c.spec.Network == "tcp" && c.spec.Request == 64 })
	log2 := func(c *caseView) float64 { return math.Log2(float64(max(c.spec.Conns, 1))) }
	var curves []curve
	for _, peer := range []string{"net", "client", "C"} {
		line := curve{peer: peer}
		for _, c := range cases {
			if p := c.peer(peer); p != nil {
				line.points = append(line.points, plotter.XY{X: log2(c), Y: p.median(cpu)})
			}
		}
		if len(line.points) > 0 {
			curves = append(curves, line)
		}
	}
	if len(curves) == 0 {
		return nil, "", nil
	}
	p, err := panel("", "connections (TCP, 64 B)", "CPU time, µs per round trip", curves)
	if err != nil {
		return nil, "", err
	}
	p.Y.Min = 0
	p.X.Tick.Marker = ticksAt(cases, func(c *caseView) string { return fmt.Sprint(c.spec.Conns) }, func(_ int, c *caseView) float64 { return log2(c) })
	var all []string
	for _, c := range cases {
		if of, net := c.peer("client"), c.peer("net"); of != nil && net != nil && (c.spec.Conns == 1 || c.spec.Conns == 64) {
			all = append(all, fmt.Sprintf("%d at once: client **%.1f µs**, net %.1f µs", c.spec.Conns, of.median(cpu), net.median(cpu)))
		}
	}
	return p, strings.Join(all, "; "), nil
}

// barFigure draws a figure of all peers of a case.
func barFigure(c *caseView, axis, unit, what string, value func(contest.Result) float64) (*plot.Plot, string, error) {
	if c == nil {
		return nil, "", nil
	}
	var all []bar
	var says []string
	for _, p := range c.peers {
		b := bar{peer: p.name, value: p.median(value)}
		all = append(all, b)
		says = append(says, fmt.Sprintf("%s %.3g%s", p.name, b.value, unit))
	}
	if len(says) > 4 {
		says = []string{says[0], says[len(says)-1]} // the other bars have their values beside them
	}
	p, err := bars(axis, all)
	return p, what + ": " + strings.Join(says, "; "), err
}

func every(*caseView) bool { return true }

func eventsFigure(v *view) (*plot.Plot, string, error) {
	c := largest(v.casesOf("m", every))
	if c == nil {
		return nil, "", nil
	}
	return barFigure(c, "CPU time, µs per round trip", " µs", c.name+" connections", cpu)
}

func memoryFigure(v *view) (*plot.Plot, string, error) {
	var all []bar
	var says []string
	add := func(c *caseView, kind string) {
		if c == nil {
			return
		}
		var each []string
		for _, p := range c.peers {
			b := bar{peer: p.name, name: p.name, value: p.median(perConn(memory))}
			if kind == "blocked" {
				b.name += ", blocked"
			}
			all = append(all, b)
			each = append(each, fmt.Sprintf("%s %.1f KB", p.name, b.value))
		}
		says = append(says, fmt.Sprintf("%s %s: %s", count(float64(c.spec.Conns)), kind, strings.Join(each, ", ")))
	}
	add(largest(v.casesOf("m", every)), "event-driven")
	add(largest(v.casesOf("h", every)), "blocked")
	if len(all) == 0 {
		return nil, "", nil
	}
	p, err := bars("KB of heap and stack", all)
	return p, strings.Join(says, "; "), err
}

func poolFigure(v *view) (*plot.Plot, string, error) {
	cases := v.casesOf("e", func(c *caseView) bool { return c.spec.Work == "ask" })
	position := func(i int, _ *caseView) float64 { return float64(i) }
	var curves []curve
	for _, peer := range []string{"go-redis on net", "go-redis on client", "client.Pool"} {
		line := curve{peer: peer, dashed: peer == "go-redis on client"}
		for i, c := range cases {
			if p := c.peer(peer); p != nil {
				line.points = append(line.points, plotter.XY{X: position(i, c), Y: p.median(rate) / 1e3})
			}
		}
		if len(line.points) > 0 {
			curves = append(curves, line)
		}
	}
	if len(curves) == 0 {
		return nil, "", nil
	}
	p, err := panel("", "goroutines that share 8 connections", "1000 PING per second", curves)
	if err != nil {
		return nil, "", err
	}
	p.Y.Min = 0
	p.X.Tick.Marker = ticksAt(cases, func(c *caseView) string { return fmt.Sprint(c.spec.Conns) }, position)
	var says []string
	for _, c := range cases {
		if of, net := c.peer("client.Pool"), c.peer("go-redis on net"); of != nil && net != nil {
			says = append(says, fmt.Sprintf("**%.2f** with %s", ratio(of, net, rate), goroutines(c.spec.Conns)))
		}
	}
	return p, "Rate of client.Pool relative to go-redis on net: " + strings.Join(says, ", "), nil
}

func goroutines(n int) string {
	if n == 1 {
		return "1 goroutine"
	}
	return fmt.Sprintf("%d goroutines", n)
}

func packetsFigure(v *view) (*plot.Plot, string, error) {
	cases := v.casesOf("d", func(c *caseView) bool { return strings.HasPrefix(c.name, "lines") })
	if len(cases) == 0 {
		return nil, "", nil
	}
	bound := curve{peer: "bufio", name: "bufio.Scanner"}
	curves := []curve{{peer: "client, lines", name: "RecvPacket"}, {peer: "client, Packets, lines", name: "Packets"}}
	var says []string
	for i, c := range cases {
		scanner := c.peer("bufio.Scanner, lines")
		if scanner == nil {
			continue
		}
		bound.points = append(bound.points, plotter.XY{X: float64(i), Y: 1})
		for k := range curves {
			of := c.peer(curves[k].peer)
			if of == nil {
				continue
			}
			y := ratio(of, scanner, rate)
			curves[k].points = append(curves[k].points, plotter.XY{X: float64(i), Y: y})
			if i == 0 {
				says = append(says, fmt.Sprintf("%s **%.2f**", curves[k].name, y))
			}
		}
	}
	drawn := []curve{bound}
	for _, c := range curves {
		if len(c.points) > 0 {
			drawn = append(drawn, c)
		}
	}
	p, err := panel("", "length of a line", "rate / bufio.Scanner's", drawn)
	if err != nil {
		return nil, "", err
	}
	p.Y.Min, p.Y.Max = 0, max(p.Y.Max, 1.2)
	p.X.Tick.Marker = ticksAt(cases, func(c *caseView) string { return contest.Size(c.spec.Reply) }, func(i int, _ *caseView) float64 { return float64(i) })
	return p, "Rate relative to bufio.Scanner, lines of " + contest.Size(cases[0].spec.Reply) + ": " + strings.Join(says, ", "), nil
}

func datagramsFigure(v *view) (*plot.Plot, string, error) {
	for _, c := range v.casesOf("l", func(c *caseView) bool { return c.spec.Work == "datagrams" && c.spec.Request == 1200 }) {
		return barFigure(c, "CPU time, µs per datagram", " µs", "Of 1,200 B, sent and received, 32 at a time", cpu)
	}
	return nil, "", nil
}

func fastcgiFigure(v *view) (*plot.Plot, string, error) {
	for _, c := range v.casesOf("g", func(c *caseView) bool { return c.spec.Conns == 8 }) {
		return barFigure(c, "1000 pages per second", "", "1000 pages per second, 8 at once", func(r contest.Result) float64 { return rate(r) / 1e3 })
	}
	return nil, "", nil
}
