package contest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/blocksock/client/bench/internal/sample"
)

// count returns the system calls per operation: those of 3n operations minus those of n,
// divided by 2n. It returns nil if strace is not installed.
func (c *Contest) count(ctx context.Context, s sample.Spec, n int) (map[string]float64, error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil, nil
	}
	s.Busy, s.Batch = "", 1
	var counts [2]map[string]int
	for i := range counts {
		s.Count = n + 2*n*i
		line, _, err := c.command(&s)
		if err != nil {
			return nil, err
		}
		to := c.path("calls")
		if _, err := output(ctx, append([]string{strace, "-f", "-c", "-o", to}, line...)); err != nil {
			return nil, err
		}
		table, err := os.ReadFile(to)
		if err != nil {
			return nil, err
		}
		counts[i] = parseCalls(table)
	}
	each := make(map[string]float64)
	for name, many := range counts[1] {
		const noise = 0.005 // of calls that do not belong to an operation
		if per := float64(many-counts[0][name]) / float64(2*n*cmp.Or(s.Active, s.Conns, 1)); per >= noise {
			each[name] = per
		}
	}
	return each, nil
}

// parseCalls parses strace's table: the fourth column is the number of calls, the last one the
// name.
func parseCalls(table []byte) map[string]int {
	counts := make(map[string]int)
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		columns := strings.Fields(lines.Text())
		if len(columns) < 5 || columns[len(columns)-1] == "total" {
			continue
		}
		if n, err := strconv.Atoi(columns[3]); err == nil {
			counts[columns[len(columns)-1]] = n
		}
	}
	return counts
}
