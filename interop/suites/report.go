package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/blocksock/client/interop/suites/dials"
)

// report prints the table and its details. It reports whether all differences that hold are known.
func report(out io.Writer, results []*result, skips bool) (same bool) {
	fmt.Fprintln(out, "| driver | packages | tests passed with net | with client | skipped | fail with both | connections of each | seconds of each | differences |")
	fmt.Fprintln(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	same = true
	for _, r := range results {
		a, b := r.by[dials.Net], r.by[dials.Client]
		held, known := r.held()
		same = same && held == 0
		fmt.Fprintf(out, "| %s %s | %s | %d | %d | %s | %d | %d, %d | %.0f, %.0f | %s |\n",
			r.module.Path, r.module.Version, r.packages(), a.tests.count(passed), b.tests.count(passed),
			pair(a.tests.count(skipped), b.tests.count(skipped)), len(r.failingBoth()),
			a.conns, b.conns, seconds(a.took), seconds(b.took), sum(held, known))
	}
	for _, r := range results {
		r.details(out, skips)
	}
	return same
}

func seconds(d time.Duration) float64 { return d.Seconds() }

// pair formats two numbers, or one if they are equal.
func pair(a, b int) string {
	if a == b {
		return fmt.Sprint(a)
	}
	return fmt.Sprintf("%d, %d", a, b)
}

func (r *result) packages() string {
	var names []string
	for _, s := range r.driver.suites {
		names = append(names, s.dir)
	}
	return strings.Join(names, " ")
}

// held counts the differences that hold, and the known ones among them.
func (r *result) held() (held, known int) {
	for _, d := range r.differ {
		switch {
		case !d.holds():
		case d.known != "":
			known++
		default:
			held++
		}
	}
	return held, known
}

func sum(held, known int) string {
	if known == 0 {
		return fmt.Sprint(held)
	}
	return fmt.Sprintf("%d, and %d known", held, known)
}

// failingBoth returns the tests that fail with both dialers.
func (r *result) failingBoth() (tests []string) {
	for test, how := range r.by[dials.Net].tests {
		if how == failed && r.by[dials.Client].tests[test] == failed {
			tests = append(tests, test)
		}
	}
	slices.Sort(tests)
	return tests
}

// details prints the names of all tests that did not pass with both dialers.
func (r *result) details(out io.Writer, skips bool) {
	for _, d := range r.differ {
		verdict := "a difference"
		switch {
		case !d.holds():
			verdict = "no difference"
		case d.known != "":
			verdict = "known: " + d.known
		}
		fmt.Fprintf(out, "\n%s: %s: %s with net, %s with client; alone %d and %d times of %d: %s\n", r.driver.name, d.test,
			d.first[dials.Net], d.first[dials.Client], d.alone[dials.Net], d.alone[dials.Client], again, verdict)
		for line := range strings.Lines(d.said) {
			fmt.Fprintf(out, "    %s", line)
		}
	}
	list(out, r.driver.name+": pass with the client and not with net", suspects(r.by[dials.Client].tests, r.by[dials.Net].tests))
	list(out, r.driver.name+": fail with both", r.failingBoth())
	for _, s := range r.driver.suites {
		if s.notThis != "" {
			list(out, fmt.Sprintf("%s: %s: left out, %s", r.driver.name, s.id(), s.why), []string{s.notThis})
		}
	}
	if skips {
		tests := maps.Clone(r.by[dials.Net].tests)
		maps.DeleteFunc(tests, func(_ string, how outcome) bool { return how != skipped })
		list(out, r.driver.name+": skipped with net", slices.Sorted(maps.Keys(tests)))
	}
}

func list(out io.Writer, title string, tests []string) {
	if len(tests) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s (%d):\n\n", title, len(tests))
	for _, test := range tests {
		fmt.Fprintln(out, "-", test)
	}
}
