package testserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Socket is the path of the unix socket of a server that has one.
func (s *Server) Socket() string { return filepath.Join(s.Dir, "s") }

// Redis starts a redis-server that keeps nothing on disk, over tcp and on Socket. Its
// settings are those of its command line: "--tls-port", "…", in which %port is the port.
func Redis(settings ...string) (*Server, error) {
	path, err := Find("redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	return Start(Spec{
		Path: path,
		Args: func(s *Server) []string {
			args := []string{
				"--bind", "127.0.0.1", "--port", s.Port, "--unixsocket", s.Socket(),
				"--save", "", "--appendonly", "no", "--daemonize", "no",
			}
			for _, a := range settings {
				args = append(args, strings.ReplaceAll(a, "%port", s.Port))
			}
			return args
		},
		Ready: func(s *Server) error {
			// It listens to all or to nothing, and the socket is nobody else's.
			return Answers("unix", s.Socket(), "INFO server\r\n", fmt.Sprintf("process_id:%d\r\n", s.Pid()))
		},
	})
}

// Memcached starts a memcached that serves over tcp and over udp.
func Memcached(settings ...string) (*Server, error) {
	path, err := Find("memcached", "memcached")
	if err != nil {
		return nil, err
	}
	return Start(Spec{
		Path: path,
		Args: func(s *Server) []string {
			// Only root may choose who to be, and root has to: the rest ignores -u.
			return append([]string{"-l", "127.0.0.1", "-p", s.Port, "-U", s.Port, "-u", "root"}, settings...)
		},
		Ready: func(s *Server) error {
			isIt := fmt.Sprintf("STAT pid %d\r\n", s.Pid())
			if err := Answers("tcp", s.Addr, "stats\r\n", isIt); err != nil {
				return err
			}
			// Over udp behind eight bytes: an id, a number and how many there are.
			return Answers("udp", s.Addr, "\x00\x01\x00\x00\x00\x01\x00\x00stats\r\n", isIt)
		},
	})
}

// Postgres starts a PostgreSQL whose superuser is postgres and who trusts everybody on
// this machine. Its settings are those of postgresql.conf: "ssl=on".
func Postgres(settings ...string) (*Server, error) {
	path, err := Find("postgres", "postgresql")
	if err != nil {
		return nil, err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil { // to what it was installed with
		return nil, err
	}
	return Start(Spec{
		Path: path,
		User: "postgres", // root it refuses to be
		Prepare: func(s *Server) error {
			initdb, err := s.Command(filepath.Join(filepath.Dir(path), "initdb"),
				"-D", "data", "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
			if err != nil {
				return err
			}
			if said, err := initdb.CombinedOutput(); err != nil {
				return fmt.Errorf("initdb: %w: %s", err, said)
			}
			return nil
		},
		Args: func(s *Server) []string {
			args := []string{
				"-D", "data", "-p", s.Port, "-c", "listen_addresses=127.0.0.1",
				"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB",
			}
			for _, setting := range settings {
				args = append(args, "-c", setting)
			}
			return args
		},
		Ready: func(s *Server) error {
			if !strings.Contains(s.Output(), "ready to accept connections") {
				return errors.New("it does not accept connections yet")
			}
			return nil
		},
	})
}

// PHP starts a php-fpm with five workers, over tcp at Addr or on Socket. Its settings are
// lines of its pool's section: "pm.max_requests = 3".
func PHP(network string, settings ...string) (*Server, error) {
	path, err := Find("php-fpm8*", "php8.2-fpm")
	if err != nil {
		return nil, err
	}
	return Start(Spec{
		Path: path,
		Prepare: func(s *Server) error {
			lines := append([]string{
				"[global]", "daemonize = no", "error_log = " + filepath.Join(s.Dir, "log"), "process_control_timeout = 10s",
				"[www]", "user = " + strconv.Itoa(os.Getuid()), "listen = " + s.at(network), "pm = static", "pm.max_children = 5",
				"catch_workers_output = no", "clear_env = no",
				"php_admin_value[upload_max_filesize] = 80M", "php_admin_value[post_max_size] = 90M",
				"php_admin_value[upload_tmp_dir] = " + s.Dir, "php_admin_value[sys_temp_dir] = " + s.Dir,
				"php_admin_value[log_errors] = on", "php_admin_value[display_errors] = off",
			}, settings...)
			return os.WriteFile(filepath.Join(s.Dir, "fpm.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
		},
		Args: func(*Server) []string { return []string{"-F", "-R", "-n", "-y", "fpm.conf"} },
		Ready: func(s *Server) error {
			log, err := os.ReadFile(filepath.Join(s.Dir, "log"))
			if err != nil {
				return err
			}
			if !strings.Contains(string(log), "ready to handle connections") {
				return errors.New("it does not handle connections yet")
			}
			return Answers(network, s.at(network), "", "") // the log may be of the time before a restart
		},
	})
}

// at is where the server serves on a network, unix or tcp.
func (s *Server) at(network string) string {
	if network == "unix" {
		return s.Socket()
	}
	return s.Addr
}
