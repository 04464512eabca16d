// The command compare runs this library beside its peers and writes what comes of it
// into a directory: all samples, tables and plots.
//
//	go run ./cmd/compare            everything, in about half an hour
//	go run ./cmd/compare -quick     the fewest cases that show each comparison
//	go run ./cmd/compare -only b,c  some comparisons
//	go run ./cmd/compare -render    tables and plots anew, of samples that are there
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
	only := flag.String("only", "", "letters of comparisons, with commas between them; all if empty")
	match := flag.String("case", "", "a regular expression that the cases' names match")
	rounds := flag.Int("rounds", 0, "rounds of each case; 7 if 0, 3 for -quick")
	length := flag.Duration("length", 0, "length of a round; 500ms if 0, 200ms for -quick")
	out := flag.String("out", "", "where to write; results, in the module, if empty")
	render := flag.Bool("render", false, "measure nothing, make tables and plots of results.json")
	flag.Parse()
	if *out == "" {
		if _, err := os.Stat("cmd/compare"); err != nil {
			return fmt.Errorf("run it from inside bench, or say -out: %w", err)
		}
		*out = "results"
	}
	if *render {
		return renderAnew(*out)
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
	// What has been measured is not lost with what could not be.
	return errors.Join(measure(ctx, all, *quick, *only, *match, *rounds, *length), all.Write(*out))
}

func measure(ctx context.Context, all *report.All, quick bool, only, match string, rounds int, length time.Duration) error {
	c, err := contest.New(rounds, length)
	if err != nil {
		return err
	}
	defer c.Close()
	named, err := regexp.Compile(match)
	if err != nil {
		return err
	}
	var cases []contest.Case
	for _, k := range contest.Cases(quick) {
		if only == "" || strings.Contains(","+only+",", ","+k.Group+",") {
			if !named.MatchString(k.Name) {
				continue
			}
			cases = append(cases, k)
		}
	}
	begin := time.Now()
	for i, k := range cases {
		fmt.Fprintf(os.Stderr, "%4d/%d  %5.0fs  %s: %s\n", i+1, len(cases), time.Since(begin).Seconds(), k.Group, k.Name)
		results, calls, err := c.Run(ctx, k)
		if err != nil {
			return err
		}
		all.Results = append(all.Results, results...)
		all.Calls = append(all.Calls, calls...)
	}
	return nil
}

func renderAnew(dir string) error {
	all, err := report.Read(dir)
	if err != nil {
		return err
	}
	return all.Write(dir)
}
