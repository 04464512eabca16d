// Udp asks a DNS server for a list of names, all at once over one socket, and prints a table of
// the answers and how long they took.
//
//	go run . -server 192.0.2.53 example.org example.net
//	go run . -server '[2001:db8::53]:53' -type MX < names.txt
//
// Without names as arguments it reads them from its standard input, with spaces or lines between
// them. A question that is not answered is asked again, -tries times in all, and waits for -wait
// the first time and twice as long each time after that. The exit status is 1 if a name has no
// answer, which does not include the answer that there is no such name.
//
// With -dtls it talks to a DTLS server instead: each line of its standard input is sent as a record,
// and each record that arrives is printed. A server to try it with:
//
//	openssl req -x509 -newkey rsa -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem
//	openssl s_server -dtls1_2 -accept 127.0.0.1:4433 -cert cert.pem -key key.pem
//	go run . -dtls -server 127.0.0.1 -ca cert.pem
//
// It is a module of its own, because only programs that use DTLS depend on an implementation of it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/blocksock/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "udp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("udp", flag.ContinueOnError)
	server := flags.String("server", "", "the server: an address, with a port if it is not 53, or 4433 with -dtls")
	kind := flags.String("type", "A", "what to ask for: "+strings.Join(typeNames(), ", "))
	a := asker{}
	flags.DurationVar(&a.wait, "wait", 500*time.Millisecond, "how long the first try of a question waits; with -dtls, for records after the last line")
	flags.IntVar(&a.tries, "tries", 3, "how often a question is asked at most")
	flags.IntVar(&a.window, "window", 64, "how many questions wait for their answers at once")
	secure := flags.Bool("dtls", false, "talk to a DTLS server")
	ca := flags.String("ca", "", "with -dtls: a PEM `file` with the authorities to trust instead of the system's")
	name := flags.String("name", "", "with -dtls: the name in the server's certificate, if it is not that of -server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *server == "" {
		return errors.New("no server: set -server")
	}
	if a.wait <= 0 || a.tries < 1 || a.window < 1 {
		return errors.New("-wait, -tries and -window have to be positive")
	}
	if a.window > maxWindow {
		return fmt.Errorf("-window is %d: set it to %d at most", a.window, maxWindow)
	}
	names := flags.Args()
	switch {
	case *secure && len(names) > 0:
		return errors.New("-dtls takes what to send from the standard input: leave out the arguments")
	case *secure:
		return talk(ctx, withPort(*server, "4433"), &client.TLSOptions{CAFile: *ca, ServerName: *name}, a.wait, in, out)
	case *ca != "" || *name != "":
		return errors.New("-ca and -name are about certificates: set -dtls, too")
	}
	if len(names) == 0 {
		words := bufio.NewScanner(in)
		for words.Split(bufio.ScanWords); words.Scan(); {
			names = append(names, words.Text())
		}
		if err := words.Err(); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return errors.New("no names: give them as arguments, or on the standard input")
	}
	questions, err := prepare(names, *kind)
	if err != nil {
		return err
	}
	began := time.Now()
	// What was answered is worth printing also if something failed later.
	err = a.ask(ctx, withPort(*server, "53"), questions)
	return errors.Join(err, report(out, questions, time.Since(began)))
}

// withPort adds a port to an address that has none.
func withPort(address, port string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), port)
}

// report prints the table and a summary. Its error tells how many names have no answer.
func report(out io.Writer, questions []*question, took time.Duration) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NAME\tTIME\tTRIES\tANSWER")
	var times []time.Duration
	for _, q := range questions {
		elapsed, answer := "-", "no answer"
		if q.answered {
			times = append(times, q.took)
			elapsed, answer = short(q.took), strings.Join(q.answer, " ")
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", q.text, elapsed, q.tries, answer)
	}
	if err := table.Flush(); err != nil { // of whatever was printed
		return err
	}
	slices.Sort(times)
	if n := len(times); n > 0 {
		_, _ = fmt.Fprintf(out, "\n%d of %d answered in %s; fastest %s, median %s, slowest %s\n",
			n, len(questions), short(took), short(times[0]), short(times[n/2]), short(times[n-1]))
	}
	if missing := len(questions) - len(times); missing > 0 {
		return fmt.Errorf("no answer for %d of %d names", missing, len(questions))
	}
	return nil
}

func short(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
