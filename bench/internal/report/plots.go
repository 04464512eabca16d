package report

import (
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
)

// wide are the plots in the sections of the groups. draw returns nil if there are no results.
var wide = []struct {
	group, file, title string
	draw               func(*view) ([]byte, error)
}{
	{"a", "throughput.svg", "Round trips per second against connections", throughputPlot},
	{"b", "busy.svg", "Time of a round trip against computing goroutines", busyPlot},
	{"b", "distributions.svg", "Distribution of the time of a round trip", distributionPlot},
	{"b-http", "handler.svg", "Response time against requests per second", handlerPlot},
	{"k", "price.svg", "Computing kept against the p99 of a round trip", pricePlot},
}

// halfAndTail are the curves of a peer's p50 and p99.
func halfAndTail(peer string) (half, tail curve) {
	return curve{peer: peer, name: peer + " p50"}, curve{peer: peer, name: peer + " p99", dashed: true}
}

// busyPlot draws latency against the number of computing goroutines, for each kind.
func busyPlot(v *view) ([]byte, error) {
	var panels []*plot.Plot
	for _, kind := range []struct{ name, title string }{
		{"spin", "a loop without calls"}, {"slices", "50 µs, then Gosched"}, {"alloc", "allocating"},
	} {
		var curves []curve
		for _, peer := range []string{"net", "client"} {
			half, tail := halfAndTail(peer)
			for _, times := range []int{0, 1, 2, 4} {
				n := times * v.Environment.CPUs
				name := fmt.Sprintf("100µs away, %s × %d", kind.name, n)
				if n == 0 {
					name = "100µs away, nothing × 0"
				}
				if p := v.at[[2]string{"b", name}].peer(peer); p != nil {
					half.points = append(half.points, plotter.XY{X: float64(n), Y: logMicros(p, 50)})
					tail.points = append(tail.points, plotter.XY{X: float64(n), Y: logMicros(p, 99)})
				}
			}
			if len(half.points) > 1 {
				curves = append(curves, half, tail)
			}
		}
		if len(curves) == 0 {
			continue
		}
		p, err := panel(kind.title, "computing goroutines", "time of a round trip", curves)
		if err != nil {
			return nil, err
		}
		logTimes(&p.Y, 100, 1e6)
		panels = append(panels, p)
	}
	return side(panels...)
}

// distributionPlot draws the distribution of latency in an idle and in a busy process.
func distributionPlot(v *view) ([]byte, error) {
	var panels []*plot.Plot
	n := v.Environment.CPUs
	for _, name := range []string{"nothing × 0", fmt.Sprintf("spin × %d", 2*n), fmt.Sprintf("slices × %d", 2*n)} {
		c := v.at[[2]string{"b", "100µs away, " + name}]
		var curves []curve
		for _, peer := range []string{"net", "client"} {
			p := c.peer(peer)
			if p == nil {
				continue
			}
			var points plotter.XYs
			for _, q := range []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9} {
				points = append(points, plotter.XY{X: -math.Log10(1 - q/100), Y: logMicros(p, q)})
			}
			curves = append(curves, curve{peer: peer, points: points})
		}
		if len(curves) == 0 {
			continue
		}
		p, err := panel("computing: "+name, "percentile", "time of a round trip", curves)
		if err != nil {
			return nil, err
		}
		logTimes(&p.Y, 100, 1e6)
		p.X.Tick.Marker = plot.ConstantTicks{{Value: 0.301, Label: "50"}, {Value: 1, Label: "90"}, {Value: 2, Label: "99"}, {Value: 3, Label: "99.9"}}
		panels = append(panels, p)
	}
	return side(panels...)
}

// throughputPlot draws round trips per second against connections.
func throughputPlot(v *view) ([]byte, error) {
	var panels []*plot.Plot
	for _, network := range []string{"unix", "tcp", "udp"} {
		var curves []curve
		for _, peer := range v.peersOf("a") {
			c := curve{peer: peer}
			for _, n := range []int{1, 8, 64, 256} {
				if p := v.at[[2]string{"a", fmt.Sprintf("%s, 64 B, %d at once", network, n)}].peer(peer); p != nil {
					c.points = append(c.points, plotter.XY{X: float64(n), Y: p.median(rate) / 1e3})
				}
			}
			if len(c.points) > 1 {
				curves = append(curves, c)
			}
		}
		if len(curves) == 0 {
			continue
		}
		p, err := panel(network+", 64 bytes", "connections", "1000 round trips per second", curves)
		if err != nil {
			return nil, err
		}
		p.X.Scale, p.Y.Min = plot.LogScale{}, 0
		p.X.Tick.Marker = plot.ConstantTicks{{Value: 1, Label: "1"}, {Value: 8, Label: "8"}, {Value: 64, Label: "64"}, {Value: 256, Label: "256"}}
		panels = append(panels, p)
	}
	return side(panels...)
}

// handlerPlot draws a web server's latency against the rate of requests.
func handlerPlot(v *view) ([]byte, error) {
	var curves []curve
	for _, peer := range []string{"net", "client"} {
		half, tail := halfAndTail(peer)
		for _, c := range v.cases {
			p := c.peer(peer)
			if c.group != "b-http" || p == nil {
				continue
			}
			x := float64(p.rounds[0].Spec.Rate)
			half.points = append(half.points, plotter.XY{X: x, Y: logMicros(p, 50)})
			tail.points = append(tail.points, plotter.XY{X: x, Y: logMicros(p, 99)})
		}
		if len(half.points) > 1 {
			curves = append(curves, half, tail)
		}
	}
	if len(curves) == 0 {
		return nil, nil
	}
	p, err := panel("", "requests per second", "response time", curves)
	if err != nil {
		return nil, err
	}
	logTimes(&p.Y, 100, 1e5)
	return side(p)
}

// pricePlot draws the computing kept against p99, for each number of connections.
func pricePlot(v *view) ([]byte, error) {
	var panels []*plot.Plot
	for _, n := range []int{1, 8, 64} {
		p, err := pricePanel(v, n, 99)
		if err != nil {
			return nil, err
		}
		if p != nil {
			p.Title.Text = count(float64(n)) + " at once"
			panels = append(panels, p)
		}
	}
	return side(panels...)
}

// pricePanel draws the computing kept against a percentile, a point for each GOMAXPROCS.
func pricePanel(v *view, conns int, percentile float64) (*plot.Plot, error) {
	var curves []curve
	for _, peer := range []string{"net", "client"} {
		line := curve{peer: peer}
		for _, c := range v.cases {
			p, alone := c.peer(peer), c.peer(noIO)
			if c.group != "k" || c.spec.Conns != conns || p == nil || alone == nil {
				continue
			}
			line.points = append(line.points, plotter.XY{X: logMicros(p, percentile), Y: 100 * ratio(p, alone, computed)})
			line.at = append(line.at, fmt.Sprintf("%g×", float64(c.spec.Procs)/float64(max(v.Environment.CPUs, 1))))
		}
		if len(line.points) > 0 {
			curves = append(curves, line)
		}
	}
	if len(curves) == 0 {
		return nil, nil
	}
	p, err := panel("", fmt.Sprintf("p%g, labelled by GOMAXPROCS / CPUs", percentile), "computing kept, %", curves)
	if err != nil {
		return nil, err
	}
	most := 1e5
	if percentile > 90 {
		most = 1e6
	}
	logTimes(&p.X, 900, most)
	p.Y.Min, p.Y.Max = 0, max(p.Y.Max, 110)
	return p, nil
}
