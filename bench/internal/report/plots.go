package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"runtime"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// plots returns a drawing, or nil if there are no results for it.
var plots = map[string]func(*view) ([]byte, error){
	"busy.svg":          busyPlot,
	"distributions.svg": distributionPlot,
	"throughput.svg":    throughputPlot,
	"handler.svg":       handlerPlot,
}

const (
	panelWidth  = 10 * vg.Centimeter
	panelHeight = 8 * vg.Centimeter
)

// looks gives each peer the same colour and shape in every plot. The colours differ for
// colour-blind readers too. Any other peer is black, without a shape.
var looks = map[string]struct {
	colour color.Color
	shape  draw.GlyphDrawer
}{
	"net":                    {color.RGBA{0xd5, 0x5e, 0x00, 0xff}, draw.SquareGlyph{}},
	"client":                 {color.RGBA{0x00, 0x72, 0xb2, 0xff}, draw.CircleGlyph{}},
	"client, Read and Write": {color.RGBA{0x00, 0x9e, 0x73, 0xff}, draw.PlusGlyph{}},
	"client, locked":         {color.RGBA{0x56, 0xb4, 0xe9, 0xff}, draw.TriangleGlyph{}},
	"C":                      {color.RGBA{0x55, 0x55, 0x55, 0xff}, draw.CrossGlyph{}},
}

// A curve is one line of a plot.
type curve struct {
	peer   string
	what   string // in the legend, beside the peer
	points plotter.XYs
	dashed bool
}

func panel(title, x, y string, curves []curve) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left = true, true
	for _, c := range curves {
		line, points, err := plotter.NewLinePoints(c.points)
		if err != nil {
			return nil, err
		}
		look := looks[c.peer]
		line.Color, points.Color, points.Shape = look.colour, look.colour, look.shape
		line.Width = vg.Points(1.5)
		if c.dashed {
			line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		}
		p.Add(line, points)
		p.Legend.Add(strings.TrimSpace(c.peer+" "+c.what), line, points)
	}
	return p, nil
}

// logTimes makes an axis logarithmic, from least to most microseconds.
func logTimes(a *plot.Axis, least, most float64) {
	a.Scale = plot.LogScale{}
	a.Min, a.Max = least, most
	a.Tick.Marker = timeTicks{}
}

type timeTicks struct{}

// Ticks labels the powers of ten.
func (timeTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		v := math.Pow(10, e)
		label := fmt.Sprintf("%g µs", v)
		if v >= 1000 {
			label = fmt.Sprintf("%g ms", v/1000)
		}
		ticks = append(ticks, plot.Tick{Value: v, Label: label})
		for k := 2.0; k < 10; k++ {
			ticks = append(ticks, plot.Tick{Value: v * k})
		}
	}
	return ticks
}

// side draws panels side by side.
func side(panels []*plot.Plot) ([]byte, error) {
	if len(panels) == 0 {
		return nil, nil
	}
	canvas := vgsvg.New(panelWidth*vg.Length(len(panels)), panelHeight)
	area := draw.New(canvas)
	area.SetColor(color.White)
	area.Fill(area.Path())
	row := plot.Align([][]*plot.Plot{panels}, draw.Tiles{
		Rows: 1, Cols: len(panels), PadX: vg.Millimeter * 4, PadTop: vg.Millimeter, PadBottom: vg.Millimeter, PadLeft: vg.Millimeter, PadRight: vg.Millimeter * 2,
	}, area)
	for i, p := range panels {
		p.Draw(row[0][i])
	}
	var b bytes.Buffer
	_, err := canvas.WriteTo(&b)
	return b.Bytes(), err
}

// micros returns a percentile in microseconds, at least 1 for the logarithmic axis.
func micros(p *peerView, q float64) float64 {
	return max(float64(p.percentile(q).Nanoseconds())/1e3, 1)
}

// busyPlot draws latency against the number of computing goroutines, for each kind.
func busyPlot(v *view) ([]byte, error) {
	var panels []*plot.Plot
	for _, kind := range []struct{ name, title string }{
		{"spin", "a loop without calls"}, {"slices", "50 µs, then Gosched"}, {"alloc", "allocating"},
	} {
		var curves []curve
		for _, peer := range []string{"net", "client"} {
			half, tail := curve{peer: peer, what: "p50"}, curve{peer: peer, what: "p99", dashed: true}
			for _, times := range []int{0, 1, 2, 4} {
				n := times * runtime.GOMAXPROCS(0)
				name := fmt.Sprintf("100µs away, %s × %d", kind.name, n)
				if n == 0 {
					name = "100µs away, nothing × 0"
				}
				if p := v.at[[2]string{"b", name}].peer(peer); p != nil {
					half.points = append(half.points, plotter.XY{X: float64(n), Y: micros(p, 50)})
					tail.points = append(tail.points, plotter.XY{X: float64(n), Y: micros(p, 99)})
				}
			}
			if len(half.points) > 1 {
				curves = append(curves, half, tail)
			}
		}
		if len(curves) == 0 {
			continue
		}
		p, err := panel(kind.title, "computing goroutines", "round trip", curves)
		if err != nil {
			return nil, err
		}
		logTimes(&p.Y, 100, 1e6)
		panels = append(panels, p)
	}
	return side(panels)
}

// distributionPlot draws the distribution of latency in an idle and in a busy process.
func distributionPlot(v *view) ([]byte, error) {
	var panels []*plot.Plot
	n := runtime.GOMAXPROCS(0)
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
				points = append(points, plotter.XY{X: -math.Log10(1 - q/100), Y: micros(p, q)})
			}
			curves = append(curves, curve{peer: peer, points: points})
		}
		if len(curves) == 0 {
			continue
		}
		p, err := panel("computing: "+name, "percentile", "round trip", curves)
		if err != nil {
			return nil, err
		}
		logTimes(&p.Y, 100, 1e6)
		p.X.Tick.Marker = plot.ConstantTicks{{Value: 0.301, Label: "50"}, {Value: 1, Label: "90"}, {Value: 2, Label: "99"}, {Value: 3, Label: "99.9"}}
		panels = append(panels, p)
	}
	return side(panels)
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
		p, err := panel(network+", 64 bytes", "connections", "1000 round trips/s", curves)
		if err != nil {
			return nil, err
		}
		p.X.Scale, p.Y.Min = plot.LogScale{}, 0
		p.Y.Max *= 1.35 // room for the legend
		p.X.Tick.Marker = plot.ConstantTicks{{Value: 1, Label: "1"}, {Value: 8, Label: "8"}, {Value: 64, Label: "64"}, {Value: 256, Label: "256"}}
		panels = append(panels, p)
	}
	return side(panels)
}

// handlerPlot draws a web server's latency against the rate of requests.
func handlerPlot(v *view) ([]byte, error) {
	var curves []curve
	for _, peer := range []string{"net", "client"} {
		half, tail := curve{peer: peer, what: "p50"}, curve{peer: peer, what: "p99", dashed: true}
		for _, c := range v.cases {
			p := c.peer(peer)
			if c.group != "b-http" || p == nil {
				continue
			}
			x := float64(p.rounds[0].Spec.Rate)
			half.points = append(half.points, plotter.XY{X: x, Y: micros(p, 50)})
			tail.points = append(tail.points, plotter.XY{X: x, Y: micros(p, 99)})
		}
		if len(half.points) > 1 {
			curves = append(curves, half, tail)
		}
	}
	if len(curves) == 0 {
		return nil, nil
	}
	p, err := panel(titleOf("b-http"), "requests/s", "response time", curves)
	if err != nil {
		return nil, err
	}
	logTimes(&p.Y, 100, 1e6)
	return side([]*plot.Plot{p})
}
