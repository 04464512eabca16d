// Suites runs the drivers' own test suites with client.Dialer and with net.Dialer, and reports the
// differences.
//
//	go run ./suites                # from interop/: all of them
//	go run ./suites -only pgx,mysql
//
// It takes a driver's module from the module cache, in the version that go.mod requires,
// copies it, and puts a package into the copy that makes the connections (see
// suites/dials): by the net.Dialer that the driver has made, or by a client.Dialer, as the
// environment says. The edits that have the driver call it are in drivers.go. Each test
// program is built once and run twice, against servers of its own that are started anew
// each time. Each connection is recorded with its type, so that nothing can be compared
// with itself. A test that passes with net and not with the client is run alone, five
// times with each. If it passes always with net and not always with the client, or never
// with the client, it is a difference, and the exit status is 1, unless drivers.go has the
// cause. Servers that the tests need and that are not installed are an error: status 2.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	same, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
		os.Exit(2)
	}
	if !same {
		os.Exit(1)
	}
}

// run prints a table to out and its progress to log. It reports whether the results with client and
// with net are the same.
func run(ctx context.Context, args []string, out, log io.Writer) (same bool, err error) {
	flags := flag.NewFlagSet("suites", flag.ContinueOnError)
	only := flags.String("only", "", "run these drivers only, by their `names`, with commas between them")
	race := flags.Bool("race", false, "build the test programs with the race detector")
	keep := flags.Bool("keep", false, "leave the copies, with what the tests printed, and say where")
	skips := flags.Bool("skips", false, "name the tests that are skipped, too")
	list := flags.Bool("list", false, "print the names of the drivers")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	if *list {
		for _, d := range drivers {
			fmt.Fprintln(out, d.name)
		}
		return true, nil
	}
	chosen, err := choose(*only)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "suites")
	if err != nil {
		return false, err
	}
	if *keep {
		defer fmt.Fprintln(log, "all of it is in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	s := &session{dir: dir, race: *race, log: log}
	var results []*result
	for _, d := range chosen {
		r, err := s.run(ctx, d)
		if err != nil {
			return false, fmt.Errorf("%s: %w", d.name, err)
		}
		results = append(results, r)
	}
	return report(out, results, *skips), nil
}

// choose returns the named drivers, or all of them if names is empty.
func choose(names string) ([]driver, error) {
	if names == "" {
		return drivers, nil
	}
	var chosen []driver
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(drivers, func(d driver) bool { return d.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown driver %q; -list shows the names", name)
		}
		chosen = append(chosen, drivers[i])
	}
	return chosen, nil
}
