// Package testserver starts real servers (redis-server, nginx, PostgreSQL) for tests and
// benchmarks. Each listens on a free port of the loopback interface and keeps its files in a
// temporary directory until it is stopped.
package testserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long a server may take to be ready.
const patience = 30 * time.Second

// A Spec is how a server is started.
type Spec struct {
	Path string // of the program, from Find

	// Args gives the arguments. The server is to serve on s.Port and to keep its
	// files in s.Dir.
	Args func(s *Server) []string

	// Ready has no error once the server answers, and is this one and not whoever
	// took the port first. It is asked again and again.
	Ready func(s *Server) error

	// Prepare, if not nil, fills s.Dir before the first start.
	Prepare func(s *Server) error

	// User is who the server is if the program is root's, for those that refuse to
	// be root; empty: whoever the program is.
	User string
}

// A Server is a program that serves.
type Server struct {
	Addr string // 127.0.0.1 and Port: tcp and udp are the server's
	Port string
	Dir  string // its working directory, on a short path, removed by Stop

	spec   Spec
	cmd    *exec.Cmd
	exited chan struct{}
}

// ErrNotInstalled is in the error of a program that is not there.
var ErrNotInstalled = errors.New("not installed")

// Find gives the path of a program: of the last that a pattern (filepath.Match) finds in
// PATH, or where Debian keeps servers. If there is none, the error names the package of
// Debian's that has it.
func Find(pattern, debian string) (string, error) {
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/lib/postgresql/*/bin")
	for _, dir := range dirs {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, name := range slices.Backward(found) {
			if path, err := exec.LookPath(name); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w; Debian's package is %s", pattern, ErrNotInstalled, debian)
}

var errPortTaken = errors.New("somebody else took the server's port")

// Start starts a server and returns when it is ready.
func Start(spec Spec) (*Server, error) {
	const attempts = 5
	for range attempts {
		s, err := tryStart(spec)
		if !errors.Is(err, errPortTaken) {
			return s, err
		}
	}
	return nil, fmt.Errorf("%s: %w, %d times", spec.Path, errPortTaken, attempts)
}

func tryStart(spec Spec) (_ *Server, err error) {
	s := &Server{spec: spec}
	if s.Dir, err = os.MkdirTemp("", "testserver"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	s.Addr = net.JoinHostPort("127.0.0.1", s.Port)
	who, err := s.who()
	if err != nil {
		return nil, err
	}
	if who != nil {
		if err := os.Chown(s.Dir, int(who.Uid), int(who.Gid)); err != nil {
			return nil, err
		}
	}
	if spec.Prepare != nil {
		if err := spec.Prepare(s); err != nil {
			return nil, err
		}
	}
	return s, s.start()
}

// freePort gives a port that is free over tcp and over udp. It may be somebody else's
// by the time a server asks for it.
func freePort() (string, error) {
	const attempts = 100
	for range attempts {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		_ = ln.Close()
		if err == nil {
			_ = pc.Close()
			return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port), nil
		}
	}
	return "", errors.New("no port is free over both tcp and udp")
}

func (s *Server) who() (*syscall.Credential, error) {
	if s.spec.User == "" || os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(s.spec.User)
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// Command is a program that runs as the server does: in its directory, as its user, and
// with its messages in English.
func (s *Server) Command(path string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(path, args...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+s.Dir)
	who, err := s.who()
	// A group of its own, so that its workers can be ended with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true}
	return cmd, err
}

// Restart starts a server that has ended again, on the same port and with the same
// files, and returns when it is ready. One that runs is killed first.
func (s *Server) Restart() error {
	s.Kill()
	for end := time.Now().Add(patience); ; {
		err := s.start()
		// A process that the server had forked may have the port for a moment more.
		if !errors.Is(err, errPortTaken) || time.Now().After(end) {
			return err
		}
	}
}

func (s *Server) start() error {
	out, err := os.Create(s.outputFile())
	if err != nil {
		return err
	}
	defer out.Close()
	cmd, err := s.Command(s.spec.Path, s.spec.Args(s)...)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(exited)
	}()
	return s.awaitReady()
}

func (s *Server) awaitReady() error {
	for end := time.Now().Add(patience); ; {
		err := s.spec.Ready(s)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			if strings.Contains(strings.ToLower(s.Output()), syscall.EADDRINUSE.Error()) {
				return errPortTaken
			}
			return fmt.Errorf("%s has ended before it was ready:\n%s", s.spec.Path, s.Output())
		case <-time.After(time.Millisecond): // nothing tells when a server begins to listen
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready: %w:\n%s", s.spec.Path, err, s.Output())
		}
	}
}

// Pid is the process's number.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Signal sends the process a signal.
func (s *Server) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// Exited is closed when the process that was started last has ended.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// Kill ends the server, and what it has started, without a chance to say goodbye, and
// waits for it.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // it may have ended already
	<-s.exited
}

// Stop kills the server and removes its directory.
func (s *Server) Stop() {
	s.Kill()
	_ = os.RemoveAll(s.Dir) // a directory of temporary files, in the worst case
}

// Output is what the server has printed since it was started last.
func (s *Server) Output() string {
	said, err := os.ReadFile(s.outputFile())
	if err != nil {
		return err.Error()
	}
	return string(said)
}

func (s *Server) outputFile() string { return filepath.Join(s.Dir, "output") }

// Answers has no error if what serves on an address answers a question with want.
func Answers(network, address, question, want string) error {
	const limit = time.Second
	c, err := net.DialTimeout(network, address, limit)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write([]byte(question)); err != nil {
		return err
	}
	var said []byte
	for buf := make([]byte, 4096); !strings.Contains(string(said), want); {
		n, err := c.Read(buf)
		said = append(said, buf[:n]...)
		if err != nil {
			return fmt.Errorf("%w after %q", err, said)
		}
	}
	return nil
}
