// The command worker runs one round of one peer for the command compare. It takes a sample.Spec as
// JSON in its argument and prints a sample.Sample as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/blocksock/client/bench/internal/sample"
	"github.com/blocksock/client/bench/internal/worker"
)

func main() {
	var s sample.Spec
	err := json.Unmarshal([]byte(os.Args[1]), &s)
	if err == nil {
		var result *sample.Sample
		if result, err = worker.Work(&s); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(result)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}
