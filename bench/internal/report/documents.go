package report

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// documentTables are the tables that other documents show, by name. Such a table stands between
// two comments, so that its figures can be written and checked:
//
//	<!-- results: NAME -->
//	<!-- end -->
var documentTables = map[string]func(*view) string{
	"busy, in short": func(v *view) string {
		return v.busyTable([]busyRow{
			{"none", "100µs away, nothing × 0"},
			{"4 that loop without a call", "100µs away, spin × 4"},
			{"4 in slices of 50 µs", "100µs away, slices × 4"},
			{"4 that loop; 64 connections", "100µs away, spin × 4, 64 at once"},
		}, false)
	},
	"busy": func(v *view) string {
		return v.busyTable([]busyRow{
			{"none", "100µs away, nothing × 0"},
			{"2 that loop without a call", "100µs away, spin × 2"},
			{"4 of them", "100µs away, spin × 4"},
			{"8 of them", "100µs away, spin × 8"},
			{"4 of them; 64 connections", "100µs away, spin × 4, 64 at once"},
			{"4 in slices of 50 µs", "100µs away, slices × 4"},
			{"4 in slices; 64 connections", "100µs away, slices × 4, 64 at once"},
			{"4 that allocate", "100µs away, alloc × 4"},
		}, true)
	},
	"GOMAXPROCS, in short": func(v *view) string { return v.procsTable(8) },
	"GOMAXPROCS":           func(v *view) string { return v.procsTable(1, 8, 64) },
	"datagrams":            (*view).datagramsTable,
	"other processes":      (*view).processesTable,
}

// Document returns a document with the tables of these results.
func (a *All) Document(text []byte) ([]byte, error) {
	v, err := a.view()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for rest := text; ; {
		before, after, found := bytes.Cut(rest, []byte("<!-- results: "))
		out.Write(before)
		if !found {
			return out.Bytes(), nil
		}
		name, after, _ := bytes.Cut(after, []byte(" -->\n"))
		_, after, ended := bytes.Cut(after, []byte("<!-- end -->"))
		table := documentTables[string(name)]
		if table == nil || !ended {
			return nil, fmt.Errorf("there is no table %q, or no line <!-- end --> after it", name)
		}
		fmt.Fprintf(&out, "<!-- results: %s -->\n\n%s\n<!-- end -->", name, table(v))
		rest = after
	}
}

// WriteDocuments writes the tables of these results into documents.
func (a *All) WriteDocuments(paths ...string) error {
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			return err
		}
		if text, err = a.Document(text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil { // readable by all users
			return err
		}
	}
	return nil
}

// A busyRow is a case of group b, and what a document calls its computing goroutines.
type busyRow struct{ says, name string }

func (v *view) busyTable(rows []busyRow, tails bool) string {
	head := []string{"goroutines that compute", "net p50", "client p50"}
	if tails {
		head = append(head, "net p99", "client p99")
	}
	t := newTable(append(head, "computing kept beside net", "beside client")...)
	for _, r := range rows {
		c := v.at[[2]string{"b", r.name}]
		net, of := c.peer("net"), c.peer("client")
		if net == nil || of == nil {
			continue
		}
		cells := []string{r.says, millis(net.percentile(50)), millis(of.percentile(50))}
		if tails {
			cells = append(cells, millis(net.percentile(99)), millis(of.percentile(99)))
		}
		t.row(append(cells, c.kept(net), c.kept(of))...)
	}
	return t.String()
}

// procsTable has the cases of group k with these numbers of connections.
func (v *view) procsTable(conns ...int) string {
	t := newTable("connections", "GOMAXPROCS", "net p50", "client p50", "net p99", "client p99", "computing kept beside net", "beside client")
	for _, n := range conns {
		for _, c := range v.casesOf("k", func(c *caseView) bool { return c.spec.Conns == n }) {
			if net, of := c.peer("net"), c.peer("client"); net != nil && of != nil {
				t.row(fmt.Sprint(n), fmt.Sprint(c.spec.Procs), millis(net.percentile(50)), millis(of.percentile(50)),
					millis(net.percentile(99)), millis(of.percentile(99)), c.kept(net), c.kept(of))
			}
		}
	}
	return t.String()
}

func (v *view) datagramsTable() string {
	t := newTable("CPU time of a datagram of 1,200 bytes", "send", "send and receive")
	send, both := v.at[[2]string{"l", "send, 1200 B"}], v.at[[2]string{"l", "send and receive, 1200 B"}]
	micros := func(p *peerView) string {
		if p == nil {
			return ""
		}
		return fmt.Sprintf("%.2f µs", p.median(cpu))
	}
	for _, r := range [][2]string{
		{"package net", "net"},
		{"x/net, WriteBatch and ReadBatch", "x/net"},
		{"`Send` and `Recv`", "client"},
		{"`SendBatch` and `RecvBatch`", "client, batches"},
		{"`SendSegments` and `RecvBatch`", "client, segments"},
		{"`SendSegments`, and `RecvBatch` with `Options.GRO`", "client, segments and GRO"},
	} {
		t.row(r[0], micros(send.peer(r[1])), micros(both.peer(r[1])))
	}
	return t.String()
}

// processesTable has the figures of groups i and j relative to package net's.
func (v *view) processesTable() string {
	besides := []int{0, 2, 8}
	t := newTable("beside as many computing processes", "0", "2", "8")
	for _, r := range []struct {
		says, group, work, of, net string
		tail                       bool
	}{
		{"`Send` and `Recv`: throughput", "i", "roundtrip", "client", "net", false},
		{"p99", "i", "roundtrip", "client", "net", true},
		{"go-redis: throughput", "j", "ask", "go-redis on client", "go-redis on net", false},
		{"net/http: throughput", "j", "get", "net/http on client", "net/http", false},
	} {
		for _, n := range []int{1, 8, 64, 256} {
			cells := []string{fmt.Sprintf("%s, %d at once", r.says, n)}
			for _, beside := range besides {
				for _, c := range v.casesOf(r.group, func(c *caseView) bool {
					return c.spec.Work == r.work && c.spec.Conns == n && c.spec.Beside == beside
				}) {
					of, net := c.peer(r.of), c.peer(r.net)
					if of == nil || net == nil {
						continue
					}
					figure := ratio(of, net, rate)
					if r.tail {
						figure = float64(of.percentile(99)) / float64(net.percentile(99))
					}
					cells = append(cells, fmt.Sprintf("%.2f", figure))
				}
			}
			if len(cells) == 1+len(besides) {
				t.row(cells...)
			}
		}
	}
	return t.String()
}

// kept formats the work of the computing goroutines beside a peer, relative to noIO. It is empty
// if none compute.
func (c *caseView) kept(p *peerView) string {
	alone := c.peer(noIO)
	if alone == nil || alone.median(computed) == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100*ratio(p, alone, computed))
}

// millis formats a time in milliseconds, for columns that are compared.
func millis(d time.Duration) string { return fmt.Sprintf("%.3g ms", float64(d)/1e6) }

// A mdTable is a table in Markdown whose first column is text.
type mdTable struct{ strings.Builder }

func newTable(head ...string) *mdTable {
	t := new(mdTable)
	t.row(head...)
	fmt.Fprintf(t, "| --- |%s\n", strings.Repeat(" ---: |", len(head)-1))
	return t
}

func (t *mdTable) row(cells ...string) { fmt.Fprintf(t, "| %s |\n", strings.Join(cells, " | ")) }
