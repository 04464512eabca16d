// Package contest runs the rounds of each case, with the peers in turns and each round in its own
// process, and starts the servers.
package contest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"time"

	"github.com/blocksock/client/bench/internal/native"
	"github.com/blocksock/client/bench/internal/sample"
)

// A Case is one kind of work for several peers.
type Case struct {
	Group string // the letter of the comparison
	Name  string // unique in the group
	Peers []string
	Spec  sample.Spec // without peer and address

	// Serve starts the servers and completes the spec. It is called for each peer.
	Serve func(c *Contest, spec *sample.Spec, peer string) (stop func(), err error)

	// Calls is n for counting the system calls of an operation: those of 3n operations
	// minus those of n. 0: not counted.
	Calls int
}

// A Result is the measurement of one peer in one round of a case.
type Result struct {
	Group, Case, Peer string
	Round             int
	Spec              sample.Spec
	Sample            *sample.Sample
}

// Calls has the number of system calls per operation, by name.
type Calls struct {
	Group, Case, Peer string
	Each              map[string]float64
}

// A Contest runs cases.
type Contest struct {
	Rounds int
	Length time.Duration // of a round, unless the case sets one

	dir           string // temporary files
	programs      native.Programs
	worker, front string // the programs in Go
}

// New builds the programs in C with cc and those in Go with go. Close removes them.
func New(rounds int, length time.Duration) (*Contest, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	c := &Contest{Rounds: rounds, Length: length, dir: dir}
	c.worker, c.front = c.path("worker"), c.path("front")
	if c.programs, err = native.Build(dir); err == nil {
		err = c.build()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// build builds the commands worker and front. They are separate from compare, so that a round
// does not start with the packages for tables and plots.
func (c *Contest) build() error {
	for _, program := range []string{c.worker, c.front} {
		command := reflect.TypeFor[Contest]().PkgPath() + "/../../cmd/" + filepath.Base(program)
		said, err := exec.Command("go", "build", "-o", program, path.Clean(command)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("go build: %w: %s", err, said)
		}
	}
	return nil
}

// Close removes the contest's files.
func (c *Contest) Close() { _ = os.RemoveAll(c.dir) }

// timed returns a spec with its length and warm-up.
func (c *Contest) timed(s sample.Spec) sample.Spec {
	if s.Length == 0 {
		s.Length = c.Length
	}
	if s.Warmup == 0 {
		s.Warmup = min(s.Length/4, 100*time.Millisecond)
	}
	return s
}

// Estimate returns about how long Run takes.
func (c *Contest) Estimate(k Case) time.Duration {
	const (
		servers = 100 * time.Millisecond // to start and stop those of a case
		process = 20 * time.Millisecond  // to start one, for each round
		connect = 100 * time.Microsecond // for each connection
		settle  = 600 * time.Millisecond // until many connections wait
		strace  = 750 * time.Millisecond // for each run under it
	)
	s := c.timed(k.Spec)
	round := process + s.Warmup + s.Length + time.Duration(s.Conns)*connect
	if s.Work == "events" || s.Work == "waiting" {
		round += settle
	}
	total := time.Duration(c.Rounds) * round
	if k.Calls > 0 {
		total += 2 * strace
	}
	return servers + total*time.Duration(len(k.Peers))
}

// Run runs a case, with its peers in turns, and returns the result of each round.
func (c *Contest) Run(ctx context.Context, k Case) (results []Result, calls []Calls, err error) {
	specs := make([]sample.Spec, len(k.Peers))
	for i, peer := range k.Peers {
		specs[i] = c.timed(k.Spec)
		specs[i].Peer = peer
		stop, err := k.Serve(c, &specs[i], peer)
		if err != nil {
			return nil, nil, fmt.Errorf("%s %s: %w", k.Name, peer, err)
		}
		defer stop()
	}
	stop, err := c.beside(k.Spec.Beside)
	if err != nil {
		return nil, nil, err
	}
	defer stop()
	for round := range c.Rounds {
		for i := range specs {
			// The peer that begins changes with each round.
			s := &specs[(i+round)%len(specs)]
			result, err := c.round(ctx, s)
			if err != nil {
				return nil, nil, fmt.Errorf("%s %s: %w", k.Name, s.Peer, err)
			}
			done := *s
			done.Address, done.Files = "", nil // valid in this run only
			results = append(results, Result{Group: k.Group, Case: k.Name, Peer: s.Peer, Round: round, Spec: done, Sample: result})
		}
	}
	if k.Calls > 0 {
		for i := range specs {
			each, err := c.count(ctx, specs[i], k.Calls)
			if err != nil {
				return nil, nil, fmt.Errorf("%s %s, counted: %w", k.Name, specs[i].Peer, err)
			}
			if each != nil {
				calls = append(calls, Calls{Group: k.Group, Case: k.Name, Peer: specs[i].Peer, Each: each})
			}
		}
	}
	return results, calls, nil
}

// beside starts n computing processes.
func (c *Contest) beside(n int) (stop func(), err error) {
	var all []*exec.Cmd
	stop = func() {
		for _, cmd := range all {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		}
	}
	for range n {
		cmd := exec.Command(c.worker, `{"Work": "compete"}`)
		if err := cmd.Start(); err != nil {
			stop()
			return nil, err
		}
		all = append(all, cmd)
	}
	return stop, nil
}

// round runs one round of one peer.
func (c *Contest) round(ctx context.Context, s *sample.Spec) (*sample.Sample, error) {
	line, finish, err := c.command(s)
	if err != nil {
		return nil, err
	}
	// A round that takes a minute longer than specified hangs.
	ctx, cancel := context.WithTimeout(ctx, s.Warmup+s.Length+time.Minute)
	defer cancel()
	out, err := output(ctx, line)
	if err != nil {
		return nil, err
	}
	return finish(out)
}

// command returns the command line for a spec, and a function that reads its output.
func (c *Contest) command(s *sample.Spec) (line []string, finish func([]byte) (*sample.Sample, error), err error) {
	if s.Peer == "C" {
		return c.roundTripInC(s), c.sampleOfC(s), nil
	}
	spec, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	return []string{c.worker, string(spec)}, func(out []byte) (*sample.Sample, error) {
		result := new(sample.Sample)
		return result, json.Unmarshal(out, result)
	}, nil
}

func output(ctx context.Context, line []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", errors.Join(err, ctx.Err()), bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}

// path returns the path of a temporary file or socket.
func (c *Contest) path(name string) string { return filepath.Join(c.dir, name) }
