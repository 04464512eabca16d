// Package report writes tables and plots of measurements.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/blocksock/client/bench/internal/contest"
	"github.com/blocksock/client/bench/internal/sample"
)

// All is all measurements, as in results.json.
type All struct {
	Command     string
	Environment Environment
	Results     []contest.Result
	Calls       []contest.Calls
}

// Write writes results.json, results.md and the plots into a directory.
func (a *All) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // readable by all users
		return err
	}
	raw, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		return err
	}
	v, err := a.view()
	if err != nil {
		return err
	}
	files := map[string][]byte{"results.json": append(raw, '\n')}
	for _, p := range wide {
		picture, err := p.draw(v)
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
		if picture != nil {
			files[p.file] = picture
			v.drawn[p.group] = append(v.drawn[p.group], fmt.Sprintf("![%s](%s)", p.title, p.file))
		}
	}
	for _, f := range figures {
		picture, says, err := f.draw(v)
		if err != nil {
			return fmt.Errorf("%s: %w", f.file, err)
		}
		if picture == nil {
			continue
		}
		if files[f.file], err = side(picture); err != nil {
			return fmt.Errorf("%s: %w", f.file, err)
		}
		v.page = append(v.page, shown{f, says})
	}
	files["results.md"] = v.markdown()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil { // readable by all users
			return err
		}
	}
	return nil
}

// Read reads the results.json that Write has written.
func Read(dir string) (*All, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil {
		return nil, err
	}
	a := new(All)
	return a, json.Unmarshal(raw, a)
}

// A view groups the results by case, in the order of the cases.
type view struct {
	*All
	cases []*caseView
	at    map[[2]string]*caseView // by group and name
	drawn map[string][]string     // links to the pictures of a group
	page  []shown                 // figures that have results
}

type caseView struct {
	group, name string
	spec        sample.Spec // of one of the peers
	peers       []*peerView
}

// A peerView has the results of one peer in all rounds of a case.
type peerView struct {
	name   string
	rounds []contest.Result // sorted by number
	times  *hdrhistogram.Histogram
	calls  map[string]float64 // nil if not counted
}

func (a *All) view() (*view, error) {
	v := &view{All: a, at: make(map[[2]string]*caseView), drawn: make(map[string][]string)}
	for _, r := range a.Results {
		c := v.caseOf(r.Group, r.Case)
		c.spec = r.Spec
		p := c.peerOf(r.Peer)
		h, err := r.Sample.Histogram()
		if err != nil {
			return nil, err
		}
		if p.times == nil {
			p.times = h
		} else {
			p.times.Merge(h)
		}
		p.rounds = append(p.rounds, r)
	}
	for _, c := range a.Calls {
		v.caseOf(c.Group, c.Case).peerOf(c.Peer).calls = c.Each
	}
	for _, c := range v.cases {
		for _, p := range c.peers {
			slices.SortFunc(p.rounds, func(a, b contest.Result) int { return a.Round - b.Round })
		}
	}
	return v, nil
}

func (v *view) caseOf(group, name string) *caseView {
	key := [2]string{group, name}
	if v.at[key] == nil {
		v.at[key] = &caseView{group: group, name: name}
		v.cases = append(v.cases, v.at[key])
	}
	return v.at[key]
}

func (c *caseView) peerOf(name string) *peerView {
	if p := c.peer(name); p != nil {
		return p
	}
	p := &peerView{name: name}
	c.peers = append(c.peers, p)
	return p
}

// peer returns nil if the case or the peer is missing.
func (c *caseView) peer(name string) *peerView {
	if c == nil {
		return nil
	}
	for _, p := range c.peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

// percentile is over the operations of all rounds.
func (p *peerView) percentile(q float64) time.Duration {
	return time.Duration(p.times.ValueAtQuantile(q))
}

// median returns the median of a figure over the rounds.
func (p *peerView) median(figure func(contest.Result) float64) float64 {
	all := make([]float64, len(p.rounds))
	for i, r := range p.rounds {
		all[i] = figure(r)
	}
	return median(all)
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}

// ratio returns the median of the ratios of a figure of two peers, round by round.
func ratio(of, beside *peerView, figure func(contest.Result) float64) float64 {
	var all []float64
	for i := range min(len(of.rounds), len(beside.rounds)) {
		if b := figure(beside.rounds[i]); b > 0 {
			all = append(all, figure(of.rounds[i])/b)
		}
	}
	return median(all)
}

// The figures of a round.

func rate(r contest.Result) float64 {
	return float64(r.Sample.Ops) / r.Sample.Elapsed.Seconds()
}

// cpu is in microseconds per operation.
func cpu(r contest.Result) float64 {
	return perOp(r, float64((r.Sample.User+r.Sample.System).Nanoseconds())/1e3)
}

// computed is per second.
func computed(r contest.Result) float64 {
	return float64(r.Sample.Computed) / r.Sample.Elapsed.Seconds()
}

func allocs(r contest.Result) float64   { return perOp(r, float64(r.Sample.Allocs)) }
func elapsed(r contest.Result) float64  { return float64(r.Sample.Elapsed) }
func threads(r contest.Result) float64  { return float64(r.Sample.Threads) }
func memory(r contest.Result) float64   { return float64(r.Sample.Memory) }
func resident(r contest.Result) float64 { return float64(r.Sample.RSS) }

// perConn returns a figure in KB for each connection.
func perConn(figure func(contest.Result) float64) func(contest.Result) float64 {
	return func(r contest.Result) float64 { return figure(r) / 1e3 / float64(max(r.Spec.Conns, 1)) }
}

func perOp(r contest.Result, figure float64) float64 {
	return figure / float64(max(r.Sample.Ops, 1))
}
