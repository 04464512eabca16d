package report

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	panelWidth  = 10 * vg.Centimeter
	panelHeight = 7 * vg.Centimeter
	labelSize   = 9 // points; of the texts inside a plot
)

// A look is the colour and shape of a peer.
type look struct {
	colour color.Color
	shape  draw.GlyphDrawer
}

// The colours differ for colour-blind readers too.
var (
	blue   = color.RGBA{0x00, 0x72, 0xb2, 0xff} // this library
	orange = color.RGBA{0xd5, 0x5e, 0x00, 0xff} // package net
	green  = color.RGBA{0x00, 0x9e, 0x73, 0xff}
	sky    = color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	grey   = color.RGBA{0x66, 0x66, 0x66, 0xff} // all others
)

// lookOf gives each peer the same look in every plot.
func lookOf(peer string) look {
	switch peer {
	case "client, Read and Write", "net/http on client":
		return look{green, draw.PlusGlyph{}}
	case "client, locked", "client, Packets, lines", "client, lengths":
		return look{sky, draw.TriangleGlyph{}}
	}
	switch {
	case strings.HasPrefix(peer, "client"), strings.HasSuffix(peer, "on client"), peer == "fastcgi":
		return look{blue, draw.CircleGlyph{}}
	case strings.HasPrefix(peer, "net"), strings.HasSuffix(peer, "on net"):
		return look{orange, draw.SquareGlyph{}}
	}
	return look{grey, draw.CrossGlyph{}}
}

// A curve is one line of a plot.
type curve struct {
	peer   string
	name   string // at its end; peer if empty
	points plotter.XYs
	at     []string // beside the points; may be nil
	dashed bool
}

// panel draws curves, with their names at their ends instead of a legend.
func panel(title, x, y string, curves []curve) (*plot.Plot, error) {
	p := newPlot(title, x, y)
	p.Add(plotter.NewGrid())
	var names labels
	for _, c := range curves {
		line, points, err := plotter.NewLinePoints(c.points)
		if err != nil {
			return nil, err
		}
		is := lookOf(c.peer)
		line.Color, points.Color, points.Shape = is.colour, is.colour, is.shape
		line.Width = vg.Points(1.5)
		if c.dashed {
			line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
		}
		p.Add(line, points)
		for i, at := range c.at {
			names = append(names, label{text: at, colour: is.colour, at: c.points[i]})
		}
		names = append(names, label{text: cmp.Or(c.name, c.peer), colour: is.colour, at: c.points[len(c.points)-1], where: right})
	}
	p.Add(names)
	return p, nil
}

func newPlot(title, x, y string) *plot.Plot {
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	plot.DefaultFont = sans
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size = labelSize + 1
		a.Tick.Label.Font.Size = labelSize
		a.Tick.Marker = roundTicks{}
	}
	return p
}

// A bar has a name on the axis and its value at its end.
type bar struct {
	peer, name string // name: peer if empty
	value      float64
}

// bars draws horizontal bars, the first one on top. It returns nil if all values are 0.
func bars(x string, all []bar) (*plot.Plot, error) {
	if !slices.ContainsFunc(all, func(b bar) bool { return b.value > 0 }) {
		return nil, nil
	}
	p := newPlot("", x, "")
	var texts labels
	for i, b := range slices.Backward(all) {
		chart, err := plotter.NewBarChart(plotter.Values{b.value}, min(panelHeight/vg.Length(2*len(all)), vg.Points(24)))
		if err != nil {
			return nil, err
		}
		chart.Horizontal, chart.XMin, chart.Color = true, float64(len(all)-1-i), lookOf(b.peer).colour
		chart.LineStyle.Width = 0
		p.Add(chart)
		texts = append(texts,
			label{text: cmp.Or(b.name, b.peer), colour: color.Black, at: plotter.XY{Y: chart.XMin}, where: left},
			label{text: fmt.Sprintf("%.3g", b.value), colour: color.Black, at: plotter.XY{X: b.value, Y: chart.XMin}})
	}
	p.HideY()
	p.X.Min = 0
	p.Add(texts)
	return p, nil
}

// labels are texts at points, moved upwards so that none covers another.
type labels []label

type label struct {
	text   string
	colour color.Color
	at     plotter.XY
	where  place
}

// A place is beside the point, or in the margin at the height of the point.
type place int

const (
	beside place = iota
	left
	right
)

func (l label) style(p *plot.Plot) text.Style {
	s := p.X.Tick.Label
	s.Color, s.XAlign, s.YAlign = l.colour, text.XLeft, text.YCenter
	return s
}

// room is the width of a label, with the gap before it. A browser without the font may use a
// wider one.
func (l label) room(p *plot.Plot) vg.Length { return l.style(p).Width(l.text)*1.2 + vg.Points(6) }

// leftMargin is the width of the labels to the left, which are aligned at their left.
func (all labels) leftMargin(p *plot.Plot) (width vg.Length) {
	for _, l := range all {
		if l.where == left {
			width = max(width, l.room(p))
		}
	}
	return width
}

// Plot implements plot.Plotter.
func (all labels) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	type placed struct {
		label
		x, y vg.Length
	}
	var places []placed
	for _, l := range all {
		at := placed{l, toX(l.at.X), toY(l.at.Y)}
		switch l.where {
		case left:
			at.x = c.Min.X - all.leftMargin(p)
		case right:
			at.x = c.Max.X
		}
		places = append(places, at)
	}
	slices.SortStableFunc(places, func(a, b placed) int { return cmp.Compare(a.y, b.y) })
	height := vg.Points(labelSize + 1)
	for i := range places {
		l := &places[i]
		for moved := true; moved; {
			moved = false
			for _, below := range places[:i] {
				if l.x < below.x+below.room(p) && below.x < l.x+l.room(p) && l.y < below.y+height && below.y < l.y+height {
					l.y, moved = below.y+height, true
				}
			}
		}
		c.FillText(l.style(p), vg.Point{X: l.x + vg.Points(5), Y: l.y}, l.text)
	}
}

// GlyphBoxes reserves the room. It implements plot.GlyphBoxer.
func (all labels) GlyphBoxes(p *plot.Plot) (boxes []plot.GlyphBox) {
	for _, l := range all {
		box := plot.GlyphBox{X: p.X.Norm(l.at.X), Y: p.Y.Norm(l.at.Y), Rectangle: vg.Rectangle{
			Min: vg.Point{Y: -labelSize / 2}, Max: vg.Point{X: l.room(p), Y: labelSize / 2},
		}}
		switch l.where {
		case left:
			box.X, box.Min.X, box.Max.X = 0, -all.leftMargin(p), 0
		case right:
			box.X = 1
		}
		boxes = append(boxes, box)
	}
	return boxes
}

// logTimes makes an axis for values of logMicros, from least to most microseconds. With
// plot.LogScale, gonum would misplace the axis' label.
func logTimes(a *plot.Axis, least, most float64) {
	a.Min, a.Max = math.Log10(least), math.Log10(most)
	a.Tick.Marker = timeTicks{}
}

// logMicros returns the logarithm of a percentile in microseconds.
func logMicros(p *peerView, q float64) float64 {
	return math.Log10(max(float64(p.percentile(q).Nanoseconds())/1e3, 1))
}

type timeTicks struct{}

// Ticks labels the powers of ten.
func (timeTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	const rounding = 1e-9
	for e := math.Floor(low); e <= high; e++ {
		v := math.Pow(10, e)
		label := fmt.Sprintf("%g µs", v)
		switch {
		case v >= 1e6:
			label = fmt.Sprintf("%g s", v/1e6)
		case v >= 1000:
			label = fmt.Sprintf("%g ms", v/1000)
		}
		if e >= low-rounding {
			ticks = append(ticks, plot.Tick{Value: e, Label: label})
		}
		for k := 2.0; k < 10; k++ {
			if at := e + math.Log10(k); at >= low && at <= high {
				ticks = append(ticks, plot.Tick{Value: at})
			}
		}
	}
	return ticks
}

// roundTicks labels at most seven round numbers.
type roundTicks struct{}

func (roundTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	const rounding = 1e-9
	least := (high - low) / 6 * (1 - rounding)
	step := math.Pow(10, math.Floor(math.Log10(least)))
	for _, k := range []float64{2, 5, 10} {
		if step*k >= least {
			step *= k
			break
		}
	}
	for i := int(math.Ceil(low/step - rounding)); float64(i) <= high/step+rounding; i++ {
		v := float64(i) * step
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%.4g", v)})
	}
	return ticks
}

// ticksAt labels values of an axis.
func ticksAt[T any](all []T, name func(T) string, position func(int, T) float64) plot.ConstantTicks {
	ticks := make(plot.ConstantTicks, len(all))
	for i, v := range all {
		ticks[i] = plot.Tick{Value: position(i, v), Label: name(v)}
	}
	return ticks
}

// side draws panels side by side. It returns nil if there are none.
func side(panels ...*plot.Plot) ([]byte, error) {
	if len(panels) == 0 {
		return nil, nil
	}
	canvas := vgsvg.New(panelWidth*vg.Length(len(panels)), panelHeight)
	area := draw.New(canvas)
	area.SetColor(color.White)
	area.Fill(area.Path())
	row := plot.Align([][]*plot.Plot{panels}, draw.Tiles{
		Rows: 1, Cols: len(panels), PadX: vg.Millimeter * 4, PadTop: vg.Millimeter * 2, PadBottom: vg.Millimeter, PadLeft: vg.Millimeter, PadRight: vg.Millimeter * 2,
	}, area)
	for i, p := range panels {
		p.Draw(row[0][i])
	}
	var b bytes.Buffer
	_, err := canvas.WriteTo(&b)
	// Browsers rarely have Liberation. The others have the same widths.
	return bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), err
}
