package debug

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/blocksock/client"
)

const (
	maxWaits   = 20
	plotHeight = 24
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"number": number}).Parse(pageText))

type pageView struct {
	Time, Past, LongestWait string
	Refresh                 int // seconds; 0: never
	ThreadsUsedUp           bool
	Waits                   client.WaitStats
	LongestWaits            []waitView
	Pools                   []poolView
}

type waitView struct {
	client.Wait
	For string
}

type poolView struct {
	Name     string
	MaxConns int
	Rows     []rowView // the first is of all keys
	Omitted  int
}

type rowView struct {
	All                            bool
	Name                           keyName
	Idle, Active, Dialing, Waiting int
	LongestWait, HitRate           string
	Plots                          []plotView
}

type plotView struct {
	Title         string
	Width, Height int
	Bars          []barsView // stacked, the lowest first
}

type barsView struct{ Name, Value, Class, Path string }

func (h *Handler) page(w io.Writer, refresh bool) error {
	waits := client.ReadWaitStats()
	view := pageView{
		Time: time.Now().Format("15:04:05 MST"), Past: fmt.Sprintf("%d minutes", maxPoints*sampleInterval/time.Minute),
		Waits: waits, LongestWait: duration(waits.LongestWait),
		ThreadsUsedUp: waits.MaxThreads > 0 && waits.Threads >= waits.MaxThreads,
	}
	if refresh {
		view.Refresh = int(sampleInterval / time.Second)
	}
	for _, wait := range client.LongestWaits(maxWaits) {
		view.LongestWaits = append(view.LongestWaits, waitView{wait, duration(wait.Duration)})
	}
	pools := h.read()
	h.mu.Lock()
	for _, p := range pools {
		past := h.histories[p.name]
		v := poolView{Name: p.name, MaxConns: p.maxConns, Omitted: len(p.keys) - len(p.shown())}
		all := newRow(p.total, past.total)
		all.All = true
		v.Rows = append(v.Rows, all)
		keys := slices.Clone(p.shown())
		slices.SortFunc(keys, func(k, l keyStats) int { return k.compare(l.keyName) })
		for _, k := range keys {
			row := newRow(k.KeyStats, past.keys[k.keyName])
			row.Name = k.keyName
			v.Rows = append(v.Rows, row)
		}
		view.Pools = append(view.Pools, v)
	}
	h.mu.Unlock()
	return pageTemplate.Execute(w, view)
}

func newRow(s client.KeyStats, past series) rowView {
	made, reused, discards := past.sum()
	row := rowView{
		Idle: s.Idle, Active: s.Active, Dialing: s.Dialing, Waiting: s.Waiting,
		LongestWait: duration(s.LongestWait), HitRate: "none yet",
	}
	switch {
	case made+reused > 0:
		row.HitRate = percent(reused, made+reused)
	case s.Checkouts > 0:
		row.HitRate = percent(s.Reuses, s.Checkouts)
	}
	row.Plots = []plotView{
		newPlot("In use and waiting", past,
			highestOf("in use", "active", past, func(p point) uint64 { return uint64(p.Active) }),
			highestOf("waiting", "waiting", past, func(p point) uint64 { return uint64(p.Waiting) }),
		),
		newPlot("Checkouts", past,
			curve{"reused", number(reused), "reused", func(p point) uint64 { return p.Reused }},
			curve{"new", number(made), "new", func(p point) uint64 { return p.New }},
		),
	}
	var causes []curve
	for cause, n := range discards {
		if n > 0 {
			causes = append(causes, curve{
				strings.ReplaceAll(client.DiscardCause(cause).String(), "_", " "), number(n), causeClass(client.DiscardCause(cause)),
				func(p point) uint64 {
					if p.Discards == nil {
						return 0
					}
					return p.Discards[cause]
				},
			})
		}
	}
	row.Plots = append(row.Plots, newPlot("Closed, by cause", past, causes...))
	return row
}

// causeClass is the colour of a cause: of the peer, of a use that went wrong, of age, of a
// limit, or of somebody who asked for it.
func causeClass(cause client.DiscardCause) string {
	switch cause {
	case client.DiscardDead:
		return "peer"
	case client.DiscardUnclean, client.DiscardFailed, client.DiscardSetup:
		return "use"
	case client.DiscardIdleTimeout, client.DiscardMaxLifetime:
		return "age"
	case client.DiscardOverLimit:
		return "limit"
	}
	return "asked"
}

type curve struct {
	name, value, class string
	of                 func(point) uint64
}

// highestOf is a curve whose value is its highest point.
func highestOf(name, class string, past series, of func(point) uint64) curve {
	highest := uint64(0)
	for _, p := range past {
		highest = max(highest, of(p))
	}
	return curve{name, "up to " + number(highest), class, of}
}

// newPlot stacks the curves as bars, one unit wide for each point. The newest point is at
// the right edge. The highest stack has the full height.
func newPlot(title string, past series, curves ...curve) plotView {
	plot := plotView{Title: title, Width: maxPoints, Height: plotHeight}
	highest := uint64(1)
	for _, p := range past {
		sum := uint64(0)
		for _, c := range curves {
			sum += c.of(p)
		}
		highest = max(highest, sum)
	}
	y := func(n uint64) float64 { return plotHeight * (1 - float64(n)/float64(highest)) }
	below := make([]uint64, len(past)) // what is stacked already
	for _, c := range curves {
		var path strings.Builder
		for i, p := range past {
			n := c.of(p)
			if n == 0 {
				continue
			}
			top, bottom := y(below[i]+n), y(below[i])
			below[i] += n
			fmt.Fprintf(&path, "M%d %.2fh1V%.2fh-1z", maxPoints-len(past)+i, top, bottom)
		}
		plot.Bars = append(plot.Bars, barsView{c.name, c.value, c.class, path.String()})
	}
	return plot
}

// number separates thousands.
func number(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", number(n/1000), n%1000)
}

func percent(part, all uint64) string { return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(all)) }

// duration rounds to what can be read at a glance.
func duration(d time.Duration) string {
	switch {
	case d == 0:
		return "none"
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}
