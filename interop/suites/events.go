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
	missing outcome = "did not run" // it is not in the results
)

// An outcomes has the tests that have no tests in them, by name.
type outcomes map[string]outcome

// ended is how a test ended.
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

// program stands for what fails with no test failing: a check at the end, a crash.
const program = "(the program)"

// An event is a line of test2json's.
type event struct {
	Action string
	Test   string
	Output string
}

// A said is what tests have printed.
type said map[string]*strings.Builder

// read reads the events of a test program. The last thing that one says that has not
// crashed is what came of it; finished tells whether it has.
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
			continue // what is printed to stderr is no event
		}
		e.Test = tempDir.ReplaceAllString(e.Test, anyMark+"$1")
		if e.Test == "" {
			finished = finished || e.Output == "PASS\n" || e.Output == "FAIL\n"
			continue
		}
		switch e.Action {
		case "run":
			all[e.Test] = failed // unless it says otherwise: one that does not end has failed
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

// leaves leaves out the tests that have others in them. One that failed with none of
// those failing stays: it failed by itself.
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
