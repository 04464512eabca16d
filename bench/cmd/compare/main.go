// The command compare measures this library and its peers, and writes the samples, tables and plots
// into a directory.
//
//	go run ./cmd/compare            everything; it prints at the start how long that takes
//	go run ./cmd/compare -quick     the fewest cases that show each comparison
//	go run ./cmd/compare -only b,c  some comparisons
//	go run ./cmd/compare -resume    the cases that results.json does not have yet
//	go run ./cmd/compare -render    write tables and plots again from results.json
//	go run ./cmd/compare -docs      write the tables of the module's documents from results.json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/blocksock/client/bench/internal/contest"
	"github.com/blocksock/client/bench/internal/report"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "the fewest cases that show each comparison")
	only := flag.String("only", "", "comma-separated letters of comparisons; empty: all")
	match := flag.String("case", "", "regular expression for the names of cases; empty: all")
	rounds := flag.Int("rounds", 0, "rounds of each case; 0: 7, with -quick 3")
	length := flag.Duration("length", 0, "length of a round; 0: 500ms, with -quick 200ms")
	out := flag.String("out", "", "output directory; empty: results")
	resume := flag.Bool("resume", false, "keep the results in results.json and run the other cases")
	render := flag.Bool("render", false, "measure nothing; write tables and plots again from results.json")
	docs := flag.Bool("docs", false, "measure nothing; write the tables of ../README.md and ../docs/performance.md from results.json")
	flag.Parse()
	if *out == "" {
		if _, err := os.Stat("cmd/compare"); err != nil {
			return fmt.Errorf("not in the directory bench; change to it or set -out: %w", err)
		}
		*out = "results"
	}
	if *render || *docs {
		return writeAgain(*out, *render, *docs)
	}
	if *rounds == 0 {
		*rounds = 7
		if *quick {
			*rounds = 3
		}
	}
	if *length == 0 {
		*length = 500 * time.Millisecond
		if *quick {
			*length = 200 * time.Millisecond
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	all := &report.All{
		Command:     strings.Join(append([]string{"go run ./cmd/compare"}, os.Args[1:]...), " "),
		Environment: report.Here(*rounds, *length),
	}
	if *resume {
		before, err := report.Read(*out)
		if err != nil {
			return err
		}
		if e := before.Environment; e.Rounds != *rounds || e.Length != *length {
			return fmt.Errorf("results.json has %d rounds of %v; set -rounds and -length to the same, or omit -resume", e.Rounds, e.Length)
		}
		all = before
	}
	cases, err := chosen(all, *quick, *only, *match)
	if err != nil {
		return err
	}
	// An error in one case does not lose the results of the cases before it.
	return errors.Join(measure(ctx, all, cases, *rounds, *length, *out), all.Write(*out))
}

// chosen returns the cases to run: those that are selected and have no results yet.
func chosen(all *report.All, quick bool, only, match string) (cases []contest.Case, err error) {
	named, err := regexp.Compile(match)
	if err != nil {
		return nil, err
	}
	have := make(map[[2]string]bool)
	for _, r := range all.Results {
		have[[2]string{r.Group, r.Case}] = true
	}
	for _, k := range contest.Cases(quick) {
		if only != "" && !strings.Contains(","+only+",", ","+k.Group+",") {
			continue
		}
		if named.MatchString(k.Name) && !have[[2]string{k.Group, k.Name}] {
			cases = append(cases, k)
		}
	}
	return cases, nil
}

// measure runs the cases. It writes the results after each group, so that a run that ends early
// can be resumed.
func measure(ctx context.Context, all *report.All, cases []contest.Case, rounds int, length time.Duration, out string) error {
	c, err := contest.New(rounds, length)
	if err != nil {
		return err
	}
	defer c.Close()
	var left time.Duration
	for _, k := range cases {
		left += c.Estimate(k)
	}
	fmt.Fprintf(os.Stderr, "%d cases, about %v\n", len(cases), left.Round(time.Second))
	begin := time.Now()
	for i, k := range cases {
		if i > 0 && cases[i-1].Group != k.Group {
			if err := all.Write(out); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "%4d/%d  %5.0fs  about %5.0fs left  %s: %s\n",
			i+1, len(cases), time.Since(begin).Seconds(), left.Seconds(), k.Group, k.Name)
		results, calls, err := c.Run(ctx, k)
		if err != nil {
			return err
		}
		all.Results = append(all.Results, results...)
		all.Calls = append(all.Calls, calls...)
		left -= c.Estimate(k)
	}
	return nil
}

// writeAgain writes tables and plots, and the tables of documents, from results.json.
func writeAgain(dir string, render, docs bool) error {
	all, err := report.Read(dir)
	if err != nil {
		return err
	}
	if render {
		err = all.Write(dir)
	}
	if docs && err == nil {
		err = all.WriteDocuments("../README.md", "../docs/performance.md")
	}
	return err
}
