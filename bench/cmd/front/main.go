// The command front is one of the servers in Go, for the command compare: it takes a
// sample.Spec as JSON in its argument, prints its address and serves until its input
// ends.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/blocksock/client/bench/internal/front"
	"github.com/blocksock/client/bench/internal/sample"
)

func main() {
	var s sample.Spec
	err := json.Unmarshal([]byte(os.Args[1]), &s)
	if err == nil {
		err = front.Serve(&s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "front:", err)
		os.Exit(1)
	}
}
