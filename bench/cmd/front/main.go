// The command front runs a server written in Go for the command compare. It takes a sample.Spec as
// JSON in its argument, prints its address and serves until the end of its input.
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
