package contest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/blocksock/client/bench/internal/sample"
	"github.com/blocksock/client/bench/internal/worker"
)

// A Group is a comparison.
type Group struct{ Letter, Title string }

// Groups are the comparisons, in the order of the report.
var Groups = []Group{
	{"a", "Round trips"},
	{"b", "Round trips in a busy process"},
	{"b-http", "A web server that computes and queries Redis"},
	{"c", "Exact reads"},
	{"d", "Framing"},
	{"e", "Pools"},
	{"f", "TLS round trips"},
	{"g", "FastCGI"},
	{"h", "Waiting clients"},
	{"i", "Round trips beside busy processes"},
	{"j", "Drivers beside busy processes"},
	{"k", "GOMAXPROCS above the number of processors"},
	{"l", "Datagrams in batches"},
	{"m", "Event-driven clients"},
}

// Cases returns all cases, or with quick the fewest that show each comparison.
func Cases(quick bool) []Case {
	var all []Case
	all = append(all, roundTrips(quick)...)
	all = append(all, busy(quick)...)
	all = append(all, handlers(quick)...)
	all = append(all, exact(quick)...)
	all = append(all, framing(quick)...)
	all = append(all, pools(quick)...)
	all = append(all, overTLS(quick)...)
	all = append(all, php(quick)...)
	all = append(all, waiting(quick)...)
	all = append(all, besideProcesses(quick)...)
	all = append(all, drivers(quick)...)
	all = append(all, procs(quick)...)
	all = append(all, datagrams(quick)...)
	return append(all, eventDriven(quick)...)
}

// busyProcesses returns the numbers of computing processes beside the measured one.
func busyProcesses(quick bool) []int {
	if quick {
		return []int{8}
	}
	return []int{0, 2, 8}
}

func besideProcesses(quick bool) (cases []Case) {
	conns := []int{1, 8, 64, 256}
	if quick {
		conns = []int{1, 64}
	}
	for _, n := range conns {
		for _, beside := range busyProcesses(quick) {
			cases = append(cases, Case{
				Group: "i", Name: fmt.Sprintf("tcp, %d at once, beside %d", n, beside),
				Peers: []string{"net", "client", "client, Read and Write"}, Serve: echo(0),
				Spec: sample.Spec{Work: "roundtrip", Network: "tcp", Request: 64, Reply: 64, Conns: n, Beside: beside},
			})
		}
	}
	return cases
}

func drivers(quick bool) (cases []Case) {
	conns := []int{1, 8, 64}
	if quick {
		conns = conns[2:]
	}
	for _, n := range conns {
		for _, beside := range busyProcesses(quick) {
			cases = append(cases, Case{
				Group: "j", Name: fmt.Sprintf("a PING to Redis, %s, beside %d", goroutines(n), beside), Serve: redis(),
				Peers: []string{"go-redis on net", "go-redis on client"},
				Spec:  sample.Spec{Work: "ask", Network: "tcp", Conns: n, Beside: beside},
			}, Case{
				Group: "j", Name: fmt.Sprintf("a GET to nginx, %s, beside %d", goroutines(n), beside), Serve: page(),
				Peers: []string{"net/http", "net/http on client"},
				Spec:  sample.Spec{Work: "get", Network: "tcp", Conns: n, Beside: beside},
			})
		}
	}
	return cases
}

// procs returns round trips in a busy process, with GOMAXPROCS at and above the number of
// processors.
func procs(quick bool) (cases []Case) {
	n := runtime.NumCPU()
	all, conns := []int{n, n + (n+1)/2, 2 * n, 4 * n}, []int{1, 8, 64}
	if quick {
		all, conns = all[1:2], conns[1:2]
	}
	for _, at := range conns {
		for _, p := range all {
			cases = append(cases, Case{
				Group: "k", Name: fmt.Sprintf("1ms away, spin × %d, %d at once, GOMAXPROCS %d", 2*n, at, p),
				Peers: []string{"net", "client", "no I/O"}, Serve: echo(time.Millisecond),
				Spec: sample.Spec{
					Work: "roundtrip", Network: "tcp", Request: 64, Reply: 64, Conns: at, Procs: p,
					Busy: worker.Spin, BusyCount: 2 * n, Length: time.Second,
				},
			})
		}
	}
	return cases
}

func goroutines(n int) string {
	if n == 1 {
		return "1 goroutine"
	}
	return fmt.Sprintf("%d goroutines", n)
}

// Size formats a number of bytes.
func Size(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	if n >= 1<<10 && n%(1<<10) == 0 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func roundTrips(quick bool) (cases []Case) {
	networks, sizes, conns := []string{"unix", "tcp", "udp"}, []int{64, 1 << 10, 64 << 10}, []int{1, 8, 64, 256}
	if quick {
		networks, sizes, conns = []string{"unix", "tcp", "udp"}, []int{64}, []int{1, 64}
	}
	for _, network := range networks {
		for _, size := range sizes {
			for _, n := range conns {
				if network == "udp" {
					size = min(size, 65507) // the longest datagram
					const overhead = 1280   // the kernel's, per datagram
					if (size+overhead)*n > 400_000 {
						continue // exceeds the default receive buffer of a socket
					}
				}
				k := Case{
					Group: "a", Name: fmt.Sprintf("%s, %s, %d at once", network, Size(size), n),
					Peers: []string{"net", "client", "C"}, Serve: echo(0),
					Spec: sample.Spec{Work: "roundtrip", Network: network, Request: size, Reply: size, Conns: n},
				}
				if size == 64 {
					k.Peers = slices.Insert(k.Peers, 2, "client, Read and Write", "client, locked")
				}
				if size == 64 && n == 1 {
					k.Calls = 1000
				} else if size == 64 && n == 64 && !quick {
					k.Calls = 50
				}
				cases = append(cases, k)
			}
		}
	}
	return cases
}

// busy returns round trips over TCP in a busy process. The number of computing goroutines varies
// for one delay only.
func busy(quick bool) (cases []Case) {
	delays := []time.Duration{0, 100 * time.Microsecond, time.Millisecond}
	times := []int{1, 2, 4}
	length := time.Second
	if quick {
		delays, times, length = delays[1:2], []int{2}, 500*time.Millisecond
	}
	for _, delay := range delays {
		add := func(kind string, n, conns int) {
			name := fmt.Sprintf("%v away, %s × %d", delay, kind, n)
			if conns > 1 {
				name += fmt.Sprintf(", %d at once", conns)
			}
			cases = append(cases, Case{
				Group: "b", Name: name, Peers: []string{"net", "client", "no I/O"}, Serve: echo(delay),
				Spec: sample.Spec{
					Work: "roundtrip", Network: "tcp", Request: 64, Reply: 64, Conns: conns,
					Busy: kind, BusyCount: n, Length: length,
				},
			})
		}
		add(worker.Nothing, 0, 1)
		for _, kind := range []string{worker.Spin, worker.Slices, worker.Alloc} {
			for _, n := range times {
				if n == 2 || delay == 100*time.Microsecond {
					add(kind, n*runtime.GOMAXPROCS(0), 1)
				}
			}
			if !quick {
				add(kind, 2*runtime.GOMAXPROCS(0), 64)
			}
		}
	}
	return cases
}

func handlers(quick bool) (cases []Case) {
	rates, length := []int{250, 500, 1000, 1500, 2000, 2500, 3000}, 2*time.Second
	if quick {
		rates, length = []int{1000}, time.Second
	}
	for _, rate := range rates {
		cases = append(cases, Case{
			Group: "b-http", Name: fmt.Sprintf("%d requests/s", rate),
			Peers: []string{"net", "client"}, Serve: handler,
			Spec: sample.Spec{Work: "rate", Network: "tcp", Rate: rate, Length: length, Warmup: 500 * time.Millisecond},
		})
	}
	return cases
}

func exact(bool) (cases []Case) {
	for _, network := range []string{"unix", "tcp"} {
		cases = append(cases, Case{
			Group: "c", Name: network + ", 1 MiB", Peers: []string{"net", "client", "C"}, Serve: echo(0),
			Spec:  sample.Spec{Work: "roundtrip", Network: network, Request: 64, Reply: 1 << 20, Conns: 1},
			Calls: 100,
		})
	}
	return cases
}

func framing(bool) (cases []Case) {
	for _, size := range []int{64, 200, 8 << 10, 1 << 20} {
		spec := sample.Spec{Work: "framing", Network: "unix", Reply: size, Batch: max(100_000/size, 1)}
		line := append(bytes.Repeat([]byte("x"), size-1), '\n')
		cases = append(cases, Case{
			Group: "d", Name: "lines, " + Size(size), Serve: stream(line), Spec: spec,
			Peers: []string{"bufio.Scanner, lines", "bufio.Reader, lines", "client, lines", "client, Packets, lines"},
		})
		prefixed := append(binary.BigEndian.AppendUint32(nil, uint32(size-4)), line[4:]...)
		cases = append(cases, Case{
			Group: "d", Name: "length-prefixed, " + Size(size), Serve: stream(prefixed), Spec: spec,
			Peers: []string{"bufio.Reader, lengths", "client, lengths", "client, Packets, lengths"},
		})
	}
	return cases
}

func pools(quick bool) (cases []Case) {
	conns := []int{1, 8, 64}
	if quick {
		conns = conns[:1]
	}
	for _, n := range conns {
		cases = append(cases, Case{
			Group: "e", Name: fmt.Sprintf("checkout and return, %s", goroutines(n)), Peers: []string{"client.Pool", "puddle"}, Serve: hold(),
			Spec: sample.Spec{Work: "checkout", Network: "unix", Conns: n, Batch: 20},
		}, Case{
			Group: "e", Name: fmt.Sprintf("a PING to Redis, %s", goroutines(n)), Serve: redis(), Calls: 200,
			Peers: []string{"client.Pool", "go-redis on net", "go-redis on client"},
			Spec:  sample.Spec{Work: "ask", Network: "unix", Conns: n},
		}, Case{
			Group: "e", Name: fmt.Sprintf("a GET to nginx, %s", goroutines(n)), Serve: page(), Calls: 200,
			Peers: []string{"client.Pool", "net/http", "net/http on client"},
			Spec:  sample.Spec{Work: "get", Network: "tcp", Conns: n},
		})
	}
	return cases
}

func overTLS(quick bool) (cases []Case) {
	for _, size := range []int{64, 64 << 10} {
		for _, n := range []int{1, 8} {
			if quick && n > 1 {
				continue
			}
			cases = append(cases, Case{
				Group: "f", Name: fmt.Sprintf("tcp, %s, %d at once", Size(size), n),
				Peers: []string{"crypto/tls on net", "client with TLS"}, Serve: tlsEcho(), Calls: 200,
				Spec: sample.Spec{Work: "roundtrip", Network: "tcp", Request: size, Reply: size, Conns: n},
			})
		}
	}
	return cases
}

func php(quick bool) (cases []Case) {
	conns := []int{1, 8, 32}
	if quick {
		conns = conns[1:2]
	}
	for _, n := range conns {
		cases = append(cases, Case{
			Group: "g", Name: fmt.Sprintf("hello, %d at once", n), Peers: []string{"nginx", "fastcgi", "caddy"}, Serve: hello,
			Spec: sample.Spec{Work: "load", Network: "tcp", Conns: n, Warmup: 200 * time.Millisecond},
		})
	}
	return cases
}

// waiting returns calls that wait. 18,000 of them need a limit of as many descriptors.
func waiting(quick bool) (cases []Case) {
	conns := []int{100, 1000, 18_000}
	if quick {
		conns = conns[:2]
	}
	for _, n := range conns {
		cases = append(cases, Case{
			Group: "h", Name: fmt.Sprintf("%d at once", n), Peers: []string{"net", "client"}, Serve: echo(0),
			Spec: sample.Spec{Work: "waiting", Network: "unix", Request: 64, Reply: 64, Conns: n},
		})
	}
	return cases
}

// eventDriven returns round trips of 64 connections among many idle ones. Over Unix sockets,
// because each round of 10,000 TCP connections would leave as many in TIME-WAIT.
func eventDriven(quick bool) (cases []Case) {
	conns := []int{1000, 10_000}
	if quick {
		conns = []int{200}
	}
	for _, n := range conns {
		k := Case{
			Group: "m", Name: fmt.Sprintf("64 active of %d", n), Serve: echo(0),
			Peers: []string{"net, a goroutine each", "gnet", "nbio", "client.AsyncClient"},
			Spec:  sample.Spec{Work: "events", Network: "unix", Request: 64, Reply: 64, Conns: n, Active: 64},
		}
		if n <= 1000 {
			k.Calls = 100
		}
		cases = append(cases, k)
	}
	return cases
}

// datagrams returns batches of 32 over loopback, both ends in the measured process.
func datagrams(quick bool) (cases []Case) {
	sizes := []int{64, 1200}
	if quick {
		sizes = sizes[1:]
	}
	for _, size := range sizes {
		spec := sample.Spec{Network: "udp", Request: size, Batch: 32}
		add := func(work, name string, peers ...string) {
			spec.Work = work
			cases = append(cases, Case{Group: "l", Name: name + ", " + Size(size), Peers: peers, Spec: spec, Serve: noServer})
		}
		add("send", "send", "net", "x/net", "client", "client, batches", "client, segments")
		add("datagrams", "send and receive", "net", "x/net", "client", "client, batches", "client, segments",
			"client, batches and GRO", "client, segments and GRO")
	}
	return cases
}
