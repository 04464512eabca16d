package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/blocksock/client/interop/suites/dials"
)

// again is how often a test is run alone before it is called a difference.
const again = 5

// A difference is a test that net did better with than the client.
type difference struct {
	test  string // the suite's id and the test's name
	first map[string]outcome
	alone map[string]int // how often it passed of again times
	said  string         // with the client, the first time
	known string         // the cause, if it is known and not the client's to remove
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

// suspects gives the tests that one did better with than the other: it passed with one
// and not with the other, or failed with the other alone.
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

// compare runs what net did better with again.
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

// repeat runs a test alone, or the whole program if it is that, and counts how often it
// passes.
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
