package report

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/blocksock/client/bench/internal/contest"
)

func (v *view) markdown() []byte {
	var b bytes.Buffer
	e := v.Environment
	fmt.Fprintf(&b, "# Results\n\n    %s\n\n", v.Command)
	rounds := fmt.Sprintf("%d rounds", e.Rounds)
	if e.Rounds == 1 {
		rounds = "one round"
	}
	fmt.Fprintf(&b, "%s, %d × %s, %s, GOMAXPROCS %d, %s; %s; %s of %v.\n",
		e.Kernel, e.CPUs, e.CPU, e.Go, e.CPUs, e.Compiler, e.Date, rounds, e.Length)
	targets := v.targets()
	fallsShort(&b, targets)
	v.firstPage(&b)
	b.WriteString("\n## How to read the tables\n\n" +
		"Some cases set another length of a round. The peers take turns. Each round runs in its own process. " +
		"Rates, CPU time and allocations are medians of the rounds; percentiles are over the operations of all rounds. " +
		"CPU time is the client process's user and system time for each operation. System calls were counted in separate runs.")
	if slices.ContainsFunc(contest.Groups, func(g contest.Group) bool { return v.computes(g.Letter) }) {
		b.WriteString(" Computing kept is the work of the computing goroutines, relative to the same process without I/O.")
	}
	b.WriteString("\n")
	targetTable(&b, targets)
	for _, g := range contest.Groups {
		if len(v.peersOf(g.Letter)) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n", titleOf(g.Letter))
		for _, link := range v.drawn[g.Letter] {
			fmt.Fprintf(&b, "%s\n\n", link)
		}
		if g.Letter == "h" {
			v.waitingTable(&b)
		} else {
			v.table(&b, g.Letter)
		}
	}
	return b.Bytes()
}

// fallsShort lists the targets that were missed, those first that were missed by most.
func fallsShort(b *bytes.Buffer, targets []target) {
	if len(targets) == 0 {
		return
	}
	missed := slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return t.reached })
	b.WriteString("\n## What falls short\n\n")
	if len(missed) == 0 {
		fmt.Fprintf(b, "Nothing: all %d [targets](#targets) are reached.\n", len(targets))
		return
	}
	slices.SortStableFunc(missed, func(x, y target) int { return cmp.Compare(y.short, x.short) })
	const most = 10
	fmt.Fprintf(b, "%d of %d [targets](#targets) are missed", len(missed), len(targets))
	if len(missed) > most {
		b.WriteString(", these by most")
		missed = missed[:most]
	}
	b.WriteString(":\n\n| figure | target | measured |\n| --- | --- | ---: |\n")
	for _, t := range missed {
		fmt.Fprintf(b, "| %s | %s | **%s** |\n", t.name, t.target, t.measured)
	}
}

// firstPage shows the figures, two in a row.
func (v *view) firstPage(b *bytes.Buffer) {
	if len(v.page) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## %s\n", map[bool]string{true: "Ten figures", false: "Figures"}[len(v.page) == len(figures)])
	b.WriteString("\nThis library is blue or green, package net orange, all others grey.\n\n")
	for i := 0; i < len(v.page); i += 2 {
		row := v.page[i:min(i+2, len(v.page))]
		cells := func(of func(int, shown) string) {
			for k := range 2 {
				b.WriteString("| ")
				if k < len(row) {
					b.WriteString(of(i+k+1, row[k]))
				}
				b.WriteString(" ")
			}
			b.WriteString("|\n")
		}
		cells(func(n int, s shown) string { return fmt.Sprintf("**%d. %s**", n, s.title) })
		if i == 0 {
			b.WriteString("| --- | --- |\n")
		}
		cells(func(_ int, s shown) string {
			return fmt.Sprintf(`<img src="%s" alt="%s" width="420">`, s.file, s.title)
		})
		cells(func(_ int, s shown) string { return s.says })
	}
}

func targetTable(b *bytes.Buffer, targets []target) {
	if len(targets) == 0 {
		return
	}
	b.WriteString("\n## Targets\n\n| figure | target | measured | |\n| --- | --- | ---: | --- |\n")
	for _, t := range targets {
		verdict := "reached"
		if !t.reached {
			verdict = "**missed**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", t.name, t.target, t.measured, verdict)
	}
}

func (v *view) table(b *bytes.Buffer, group string) {
	columns := []string{"operations/s", "p50", "p90", "p99", "p99.9", "CPU time", "network system calls", "system calls", "allocations"}
	computes, idles := v.computes(group), group == "m"
	if computes {
		columns = append(columns, "computing kept")
	}
	if idles {
		columns = append(columns, "threads", "heap and stack per connection, idle", "resident memory per connection, idle")
	}
	fmt.Fprintf(b, "| case | peer | %s |\n| --- | --- |%s\n", strings.Join(columns, " | "), strings.Repeat(" ---: |", len(columns)))
	for _, c := range v.cases {
		if c.group != group {
			continue
		}
		name := c.name
		for _, p := range c.peers {
			if p.name == noIO {
				continue
			}
			fmt.Fprintf(b, "| %s | %s | %s |", name, p.name, count(p.median(rate)))
			name = ""
			for _, q := range []float64{50, 90, 99, 99.9} {
				// One latency was recorded for the whole batch, not for an operation.
				if p.rounds[0].Spec.Batch > 1 {
					b.WriteString(" |")
				} else {
					fmt.Fprintf(b, " %s |", short(p.percentile(q)))
				}
			}
			b.WriteString(v.costs(p))
			if computes {
				fmt.Fprintf(b, " %s |", c.kept(p))
			}
			if idles {
				fmt.Fprintf(b, " %.0f | %.1f KB | %.1f KB |", p.median(threads), p.median(perConn(memory)), p.median(perConn(resident)))
			}
			b.WriteString("\n")
		}
	}
	for _, p := range v.peersOf(group) {
		if calls := v.callsOf(group, p); calls != "" {
			fmt.Fprintf(b, "\nSystem calls of %s for each operation: %s.\n", p, calls)
		}
	}
}

// costs formats the columns CPU time, system calls and allocations of a peer's row.
func (v *view) costs(p *peerView) string {
	work := p.rounds[0].Spec.Work
	if work == "load" || work == "rate" {
		return " | | | |" // these are the load generator's costs, and it is not compared
	}
	calls, network := "", ""
	if p.calls != nil {
		sum := 0.0
		for _, name := range slices.Sorted(maps.Keys(p.calls)) { // a sum depends on the order
			sum += p.calls[name]
		}
		calls, network = fmt.Sprintf("%.2f", sum), fmt.Sprintf("%.2f", networkCalls(p.calls))
	}
	objects := fmt.Sprintf("%.1f", p.median(allocs))
	if p.name == "C" {
		objects = ""
	}
	return fmt.Sprintf(" %.2f µs | %s | %s | %s |", p.median(cpu), network, calls, objects)
}

// noIO is the peer that computes and performs no I/O: the reference of computing kept. It has no
// row of its own.
const noIO = "no I/O"

// computes reports whether a group has a case whose processes compute.
func (v *view) computes(group string) bool {
	for _, c := range v.cases {
		if p := c.peer(noIO); c.group == group && p != nil && p.median(computed) > 0 {
			return true
		}
	}
	return false
}

// callsOf lists the system calls of a peer in the first case of the group that has them.
func (v *view) callsOf(group, peer string) string {
	for _, c := range v.cases {
		p := c.peer(peer)
		if c.group != group || p == nil || p.calls == nil {
			continue
		}
		var all []string
		for _, name := range slices.SortedFunc(maps.Keys(p.calls), func(x, y string) int {
			return cmp.Or(cmp.Compare(p.calls[y], p.calls[x]), cmp.Compare(x, y))
		}) {
			all = append(all, fmt.Sprintf("%.2f %s", p.calls[name], name))
		}
		return strings.Join(all, ", ") + " (" + c.name + ")"
	}
	return ""
}

func (v *view) waitingTable(b *bytes.Buffer) {
	b.WriteString("| case | peer | threads | heap and stack per client | resident memory per client | all answered in |\n| --- | --- | ---: | ---: | ---: | ---: |\n")
	for _, c := range v.cases {
		if c.group != "h" {
			continue
		}
		name := c.name
		for _, p := range c.peers {
			fmt.Fprintf(b, "| %s | %s | %.0f | %.1f KB | %.1f KB | %s |\n", name, p.name,
				p.median(threads), p.median(perConn(memory)), p.median(perConn(resident)), short(time.Duration(p.median(elapsed))))
			name = ""
		}
	}
}

// count formats a number, with three significant digits if it is small or large.
func count(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.3g million", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.3g", n)
}

// short formats a time with three significant digits. Histograms have two.
func short(d time.Duration) string {
	switch {
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	case d >= time.Microsecond:
		return fmt.Sprintf("%.3g µs", float64(d)/1e3)
	}
	return fmt.Sprintf("%d ns", d.Nanoseconds())
}
