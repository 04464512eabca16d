package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/blocksock/client/interop/suites/dials"
)

// A session is one run of this program.
type session struct {
	dir  string // for all output
	race bool
	log  io.Writer
}

func (s *session) say(format string, args ...any) {
	fmt.Fprintf(s.log, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

// the two dialers, net first.
var both = []string{dials.Net, dials.Client}

// A result has the results of a driver's suites.
type result struct {
	driver driver
	module module
	by     map[string]*tally // by dialer
	differ []difference
}

// A tally has the results of one dialer.
type tally struct {
	tests outcomes // by the suite's id and the test's name
	said  said
	conns int // connections made
	took  time.Duration

	finished bool // and not crashed, with tests that did not run
}

// run runs a driver's suites with each dialer.
func (s *session) run(ctx context.Context, d driver) (*result, error) {
	m, err := download(ctx, d.module)
	if err != nil {
		return nil, err
	}
	s.say("%s: %s %s", d.name, m.Path, m.Version)
	p := &programs{session: s, driver: d, copy: filepath.Join(s.dir, d.name)}
	if err := copyOf(ctx, m, d, p.copy); err != nil {
		return nil, err
	}
	for _, suite := range d.suites {
		s.say("%s: building the tests of %s", d.name, suite.id())
		if err := p.build(ctx, suite); err != nil {
			return nil, err
		}
	}
	r := &result{driver: d, module: m, by: map[string]*tally{}}
	for _, dialer := range both {
		t, err := p.runAll(ctx, dialer)
		if err != nil {
			return nil, fmt.Errorf("with %s: %w", dialer, err)
		}
		s.say("%s: %d tests pass with %s, over %d connections, in %v", d.name, t.tests.count(passed), dialer, t.conns, t.took.Round(time.Second))
		r.by[dialer] = t
	}
	r.differ, err = p.compare(ctx, r.by[dials.Net], r.by[dials.Client])
	return r, err
}

// programs are a driver's test programs.
type programs struct {
	*session
	driver driver
	copy   string
}

func (p *programs) path(s suite) string {
	return p.copy + "-" + strings.ReplaceAll(s.id(), "/", "-") + ".test"
}

// build makes a suite's test program. Both dialers run the same one.
func (p *programs) build(ctx context.Context, s suite) error {
	args := []string{"test", "-c", "-vet=off", "-mod=mod", "-modfile=" + p.driver.goMod(), "-o", p.path(s)}
	if p.race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+s.dir)...)
	cmd.Dir = p.copy
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the tests of %s: %w: %s", s.id(), err, said)
	}
	return nil
}

// runAll runs all suites with a dialer, against servers that are started for it.
func (p *programs) runAll(ctx context.Context, dialer string) (*tally, error) {
	servers, err := p.serving()
	if err != nil {
		return nil, err
	}
	defer servers.stop()
	begin := time.Now()
	sum := &tally{tests: outcomes{}, said: said{}}
	for _, suite := range p.driver.suites {
		t, err := p.runWhole(ctx, suite, dialer, servers)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", suite.id(), err)
		}
		if dialer == dials.Net && !t.finished {
			return nil, fmt.Errorf("%s crashed twice, so that the other tests did not run; exclude the test that crashes:\n%s", suite.id(), t.worst())
		}
		if t.conns == 0 {
			return nil, fmt.Errorf("%s made no recorded connection: nothing was compared", suite.id())
		}
		for test, how := range t.tests {
			sum.tests[suite.id()+" "+test] = how
		}
		for test, text := range t.said {
			sum.said[suite.id()+" "+test] = text
		}
		sum.conns += t.conns
	}
	sum.took = time.Since(begin)
	return sum, nil
}

// runWhole runs all of a suite, and once more if it crashed: some tests do so when they
// have waited for too long, and then the rest has not run.
func (p *programs) runWhole(ctx context.Context, s suite, dialer string, servers *serving) (*tally, error) {
	t, err := p.runSuite(ctx, s, dialer, servers, "")
	if err != nil || t.finished {
		return t, err
	}
	p.say("%s: %s crashed with %s, and runs once more", p.driver.name, s.id(), dialer)
	return p.runSuite(ctx, s, dialer, servers, "")
}

func (p *programs) serving() (*serving, error) {
	if p.driver.serve == nil {
		return &serving{stop: func() {}}, nil
	}
	return p.driver.serve(p.copy)
}

// runSuite runs a suite's test program, or one test of it alone.
func (p *programs) runSuite(ctx context.Context, s suite, dialer string, servers *serving, test string) (*tally, error) {
	record, err := os.CreateTemp(p.dir, p.driver.name+"-"+dialer+"-*.conns")
	if err != nil {
		return nil, err
	}
	defer record.Close()
	report := strings.TrimSuffix(record.Name(), ".conns") + ".specs"
	cmd, done := p.command(ctx, s, servers.args, report, test)
	defer done()
	cmd.Env = append(os.Environ(), servers.env...)
	cmd.Env = append(cmd.Env, dials.Dialer+"="+dialer, dials.Record+"="+record.Name())
	t, err := p.execute(cmd, strings.TrimSuffix(record.Name(), ".conns")+".json")
	if ctx.Err() != nil {
		return nil, ctx.Err() // the program was stopped: its result has no meaning
	}
	if err != nil {
		return nil, err
	}
	if s.specs && (test == "" || strings.HasPrefix(test, specName)) {
		if err := addSpecs(t.tests, report); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err // without a report the test that writes it has failed
		}
	}
	lines, err := io.ReadAll(record)
	if err != nil {
		return nil, err
	}
	t.conns, err = connections(string(lines), dialer)
	return t, err
}

// command makes the command of a test program. What it has started is ended by done.
func (p *programs) command(ctx context.Context, s suite, more []string, report, test string) (cmd *exec.Cmd, done func()) {
	args := []string{"tool", "test2json", "-t", p.path(s), "-test.v=test2json", "-test.paniconexit0", "-test.timeout=" + s.limit.String()}
	if test != "" {
		args = append(args, alone(test)...)
	}
	if s.notThis != "" {
		args = append(args, "-test.skip="+s.notThis)
	}
	if s.specs {
		args = append(args, "-ginkgo.json-report="+report)
	}
	args = append(append(args, s.args...), more...)
	// The program ends itself at its limit, and says where it hung; if it cannot do
	// even that, it is killed.
	const grace = time.Minute
	ctx, cancel := context.WithTimeout(ctx, s.limit+grace)
	cmd = exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(p.copy, s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	return cmd, func() {
		if cmd.Process != nil {
			_ = kill() // servers that a test has left running
		}
		cancel()
	}
}

// execute runs a test program and reads its results, which it also writes to a file.
func (p *programs) execute(cmd *exec.Cmd, events string) (*tally, error) {
	out, err := os.Create(events)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	ended := cmd.Run()
	if exit := new(exec.ExitError); ended != nil && !errors.As(ended, &exit) {
		return nil, ended
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	t := &tally{}
	t.tests, t.said, t.finished, err = read(out)
	if ended != nil && t.tests.count(failed) == 0 {
		t.tests[program] = failed
	}
	return t, err
}

// worst returns the output of the failed tests.
func (t *tally) worst() string {
	var all strings.Builder
	for test, text := range t.said {
		if t.tests[test] == failed {
			all.WriteString(text.String())
		}
	}
	return all.String()
}

// What a recorded type says of who made the connection.
var madeBy = map[string]*regexp.Regexp{
	dials.Net:    regexp.MustCompile(`^\*net\.`),
	dials.Client: regexp.MustCompile(`^\*?client\.`),
}

// connections counts the lines of a record. A connection of another dialer is an error.
func connections(record, dialer string) (int, error) {
	types := map[string]int{}
	n := 0
	for line := range strings.Lines(record) {
		types[strings.TrimSpace(line)]++
		n++
	}
	for _, typ := range slices.Sorted(maps.Keys(types)) {
		if !madeBy[dialer].MatchString(typ) {
			return n, fmt.Errorf("with %s, %d of %d connections are of type %s", dialer, types[typ], n, typ)
		}
	}
	return n, nil
}
