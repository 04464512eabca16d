package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/blocksock/client/interop/suites/dials"
)

// again is the number of runs of a test alone that decide whether it is a difference.
const again = 5

// A difference is a test with a better result with net than with client.
type difference struct {
	test  string // the suite's id and the test's name
	first map[string]outcome
	alone map[string]int // passes in again runs, by dialer
	said  string         // output with client in the first run
	known string         // the cause, if it is known and cannot be removed in client
}

// holds reports whether the client did worse with the test alone, too. A test that fails
// now and then with net tells nothing if it does so with the client, however often; one
// that passes with neither when it is alone gives no reason to think better of it. A
// whole program is as unsteady as all of its tests together, and has to fail each time.
func (d difference) holds() bool {
	net, client := d.alone[dials.Net], d.alone[dials.Client]
	if strings.HasSuffix(d.test, " "+program) {
		return client == 0
	}
	return net == again && client < again || client == 0
}

// suspects returns the tests that passed with one dialer and not with the other, or failed with the
// other only.
func suspects(one, other outcomes) (tests []string) {
	all := maps.Clone(one)
	maps.Copy(all, other)
	for _, test := range slices.Sorted(maps.Keys(all)) {
		a, b := one.ended(test), other.ended(test)
		if a == passed && b != passed || a != failed && b == failed {
			tests = append(tests, test)
		}
	}
	return tests
}

// compare runs again the tests with a better result with net.
func (p *programs) compare(ctx context.Context, net, client *tally) ([]difference, error) {
	var differ []difference
	for _, test := range suspects(net.tests, client.tests) {
		d := difference{
			test:  test,
			first: map[string]outcome{dials.Net: net.tests.ended(test), dials.Client: client.tests.ended(test)},
			alone: map[string]int{},
			known: p.driver.known[test],
		}
		if text := client.said[test]; text != nil {
			d.said = text.String()
		}
		id, name, _ := strings.Cut(test, " ")
		suite := p.driver.suites[slices.IndexFunc(p.driver.suites, func(s suite) bool { return s.id() == id })]
		for _, dialer := range both {
			n, err := p.repeat(ctx, suite, dialer, name)
			if err != nil {
				return nil, err
			}
			d.alone[dialer] = n
		}
		p.say("%s: %s: %s with net, %s with the client; alone it passes %d and %d times of %d", p.driver.name, test,
			d.first[dials.Net], d.first[dials.Client], d.alone[dials.Net], d.alone[dials.Client], again)
		differ = append(differ, d)
	}
	return differ, nil
}

// repeat runs a test alone, or the whole program, and counts the passes.
func (p *programs) repeat(ctx context.Context, s suite, dialer, test string) (passes int, err error) {
	servers, err := p.serving()
	if err != nil {
		return 0, err
	}
	defer servers.stop()
	for range again {
		t, err := p.runSuite(ctx, s, dialer, servers, test)
		if err != nil {
			return passes, fmt.Errorf("%s alone: %w", test, err)
		}
		if how := t.tests.ended(test); how == passed || test == program && how == missing {
			passes++
		}
	}
	return passes, nil
}
