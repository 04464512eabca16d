package main

import (
	"bufio"
	"encoding/json"
	"io"
	"regexp"
	"strings"
)

// How a test ended.
type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "fail"
	skipped outcome = "skip"
	missing outcome = "did not run" // not in the results
)

// An outcomes has the outcome of tests without subtests, by name.
type outcomes map[string]outcome

// ended returns the outcome of a test, or missing.
func (o outcomes) ended(test string) outcome {
	if how, ok := o[test]; ok {
		return how
	}
	return missing
}

func (o outcomes) count(how outcome) (n int) {
	for _, h := range o {
		if h == how {
			n++
		}
	}
	return n
}

// program stands for a failure outside of tests: a check at the end, or a crash.
const program = "(the program)"

// An event is a line of test2json's.
type event struct {
	Action string
	Test   string
	Output string
}

// A said has the output of tests.
type said map[string]*strings.Builder

// read reads the events of a test program. A program that did not crash ends with its own result;
// finished reports whether there was one.
func read(r io.Reader) (all outcomes, output said, finished bool, err error) {
	all, output = outcomes{}, said{}
	lines := bufio.NewReader(r) // a Scanner has a longest line
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			if err == io.EOF { //nolint:errorlint // as a Reader gives it
				err = nil
			}
			return leaves(all), output, finished, err
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			continue // standard error has no events
		}
		e.Test = tempDir.ReplaceAllString(e.Test, anyMark+"$1")
		if e.Test == "" {
			finished = finished || e.Output == "PASS\n" || e.Output == "FAIL\n"
			continue
		}
		switch e.Action {
		case "run":
			all[e.Test] = failed // a test without a result has failed
		case "pass", "fail", "skip":
			all[e.Test] = outcome(e.Action)
		case "output":
			if output[e.Test] == nil {
				output[e.Test] = new(strings.Builder)
			}
			output[e.Test].WriteString(e.Output)
		}
	}
}

// Some tests have the path of a t.TempDir in their names, and so another name each time.
// The mark stands for what is random in it.
const anyMark = "…"

var tempDir = regexp.MustCompile(`[0-9]{5,}(/[0-9]{3}\b)`)

// leaves removes the tests with subtests, except those that failed while no subtest failed.
func leaves(all outcomes) outcomes {
	parents, blamed := map[string]bool{}, map[string]bool{}
	for test, how := range all {
		for i := range test {
			if test[i] == '/' {
				parents[test[:i]] = true
				if how == failed {
					blamed[test[:i]] = true
				}
			}
		}
	}
	left := outcomes{}
	for test, how := range all {
		if !parents[test] || how == failed && !blamed[test] {
			left[test] = how
		}
	}
	return left
}
