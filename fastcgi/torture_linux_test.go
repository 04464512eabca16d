package fastcgi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tortureScripts are the scripts of the torture test. Each names its request in its
// response. finish.php writes more after its response.
func tortureScripts(ids string) map[string]string {
	return map[string]string{
		"get.php":      `<?php header('X-Id: ' . $_GET['id']); echo str_repeat($_GET['id'] . "\n", (int)$_GET['lines']);`,
		"post.php":     `<?php $b = file_get_contents('php://input'); header('X-Id: ' . $b); file_put_contents('` + ids + `', $b . "\n", FILE_APPEND); echo $b, "\n";`,
		"upload.php":   `<?php header('X-Id: ' . $_GET['id']); echo hash('sha256', file_get_contents('php://input'));`,
		"download.php": `<?php header('X-Id: ' . $_GET['id']); $n = (int)$_GET['size']; header("Content-Length: $n"); for ($p = str_repeat($_GET['id'] . '.', 1000); $n > 0; $n -= strlen($p)) echo substr($p, 0, $n);`,
		"finish.php": `<?php header('X-Id: ' . $_GET['id']); echo $_GET['id'], "\n"; fastcgi_finish_request(); usleep((int)$_GET['pause']);
error_log('secret of ' . $_GET['id']); echo "X-Id: secret\r\nSet-Cookie: secret=1\r\n\r\n", str_repeat('secret', (int)$_GET['lines']);`,
	}
}

// tortureResults counts what became of the requests of the torture test.
type tortureResults struct {
	t                                     *testing.T
	base                                  map[string]*httptest.Server
	done, failed, canceled, wrong         atomic.Int64
	posts, postsFailed, uploads, finishes atomic.Int64

	mu       sync.Mutex
	answered []string // IDs of POSTs with a response
	statuses map[string]int
}

func (m *tortureResults) reportWrong(format string, args ...any) {
	if m.wrong.Add(1) <= 10 {
		m.t.Errorf(format, args...)
	}
}

// request sends one request. what is its complete body, unless the request is to be
// abandoned.
func (m *tortureResults) request(s *httptest.Server, method, path string, body io.Reader, id, what string, giveUp bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, body)
	if err != nil {
		m.t.Error(err)
		return false
	}
	if giveUp && body != nil {
		time.AfterFunc(time.Duration(rand.N(5000))*time.Microsecond, cancel)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		m.addFailure(giveUp, "no answer")
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		m.addFailure(giveUp, strconv.Itoa(resp.StatusCode))
		if resp.StatusCode < 400 || strings.Contains(string(b), "-") || resp.Header.Get("X-Id") != "" {
			m.reportWrong("%s: %d %v %.80q", id, resp.StatusCode, resp.Header, b)
		}
		return false
	}
	if resp.Header.Get("X-Id") != id || len(resp.Cookies()) > 0 {
		m.reportWrong("%s: the answer to %q: %v", id, resp.Header.Get("X-Id"), resp.Header)
	}
	if giveUp {
		p := make([]byte, min(len(what), 4096))
		if n, _ := io.ReadFull(resp.Body, p); string(p[:n]) != what[:n] {
			m.reportWrong("%s: %.80q", id, p[:n])
		}
		cancel()
		m.canceled.Add(1)
		return false
	}
	b, err := io.ReadAll(resp.Body)
	switch {
	case err == nil && string(b) == what:
		m.done.Add(1)
		return true
	case err == nil || !strings.HasPrefix(what, string(b)):
		m.reportWrong("%s %s: %d bytes of %d, %v: %.80q", id, path, len(b), len(what), err, b)
	default:
		m.addFailure(false, "cut off")
	}
	return false
}

func (m *tortureResults) addFailure(canceled bool, how string) {
	if canceled {
		m.canceled.Add(1)
		return
	}
	m.failed.Add(1)
	m.mu.Lock()
	m.statuses[how]++
	m.mu.Unlock()
}

// randomRequest sends a request of a random kind.
func (m *tortureResults) randomRequest(id string) {
	proto := "HTTP/1.1"
	if rand.N(2) == 0 {
		proto = "HTTP/2.0"
	}
	s := m.base[proto]
	switch rand.N(8) {
	case 0, 1:
		m.request(s, http.MethodGet, "/get.php?lines=1&id="+id, nil, id, id+"\n", false)
	case 2:
		m.request(s, http.MethodGet, "/get.php?lines=50000&id="+id, nil, id, strings.Repeat(id+"\n", 50_000), true)
	case 3:
		m.posts.Add(1)
		if m.request(s, http.MethodPost, "/post.php", strings.NewReader(id), id, id+"\n", false) {
			m.mu.Lock()
			m.answered = append(m.answered, id)
			m.mu.Unlock()
		} else {
			m.postsFailed.Add(1)
		}
	case 4:
		content := bytes.Repeat([]byte(id+"/"), rand.N(40_000))
		sum := sha256.Sum256(content)
		var body io.Reader = bytes.NewReader(content)
		if rand.N(2) == 0 {
			body = io.MultiReader(body) // hides the length
		}
		m.uploads.Add(1)
		m.request(s, http.MethodPost, "/upload.php?id="+id, body, id, hex.EncodeToString(sum[:]), rand.N(3) == 0)
	case 5:
		size := rand.N(1 << 20)
		what := strings.Repeat(id+".", size/(len(id)+1)+1)[:size]
		m.request(s, http.MethodGet, fmt.Sprintf("/download.php?size=%d&id=%s", size, id), nil, id, what, rand.N(3) == 0)
	default:
		m.finishes.Add(1)
		m.request(s, http.MethodGet, fmt.Sprintf("/finish.php?pause=%d&lines=%d&id=%s", rand.N(20_000), rand.N(20_000), id), nil, id, id+"\n", false)
	}
}

// children returns the process IDs of php-fpm's workers.
func (p *phpFPM) children() (pids []int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.Pid()))
	for field := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Requests of all kinds are sent over HTTP/1.1 and HTTP/2. Some are abandoned, and some
// scripts go on after their response. Meanwhile workers exit after 20 requests or are
// killed, and php-fpm is reloaded. Each response must belong to its request, no POST may
// arrive twice, no POST with a response may be lost, and no goroutine or descriptor may be
// leaked.
func TestTorture_EveryResponseIsItsOwn(t *testing.T) {
	skipLoad(t)
	length := 30 * time.Second / time.Duration(loadDivisor(t))
	if loadDivisor(t) == 1 {
		length = 90 * time.Second
	}
	ids := filepath.Join(t.TempDir(), "ids")
	p := startPHP(t, "unix", "pm.max_requests = 20")
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptorCount(t)
	var logged syncBuffer
	cl := &Client{Network: "unix", Address: p.Socket()}
	h := &Handler{Client: cl, Root: writeFiles(t, tortureScripts(ids)), ErrorLog: log.New(&logged, "", 0)}
	m := &tortureResults{t: t, base: make(map[string]*httptest.Server), statuses: make(map[string]int)}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		if proto == "HTTP/2.0" {
			s.EnableHTTP2 = true
			s.StartTLS()
		} else {
			s.Start()
		}
		m.base[proto] = s
		resp, err := s.Client().Get(s.URL + "/get.php?lines=1&id=0-0")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, proto, resp.Proto)
	}

	stop := make(chan struct{})
	var clients, chaos sync.WaitGroup
	for g := range 16 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					m.randomRequest(fmt.Sprintf("%d-%d", g, i))
				}
			}
		})
	}
	kills, reloads := 0, 0
	chaos.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
			if i%10 == 0 {
				if err := p.Signal(syscall.SIGUSR2); err != nil {
					t.Error(err)
				}
				reloads++
			} else if pids := p.children(); len(pids) > 0 && syscall.Kill(pids[rand.N(len(pids))], syscall.SIGKILL) == nil {
				kills++
			}
		}
	})
	time.Sleep(length)
	close(stop)
	clients.Wait()
	chaos.Wait()

	require.Eventually(t, func() bool { // afterwards requests succeed again
		resp, err := m.base["HTTP/1.1"].Client().Get(m.base["HTTP/1.1"].URL + "/get.php?lines=1&id=0-0")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && string(b) == "0-0\n"
	}, testTimeout, 100*time.Millisecond)
	stats := cl.Stats()
	for _, s := range m.base {
		s.Close()
	}
	require.NoError(t, h.Close())
	require.NoError(t, cl.Close())

	carriedOut, doubled, lost := make(map[string]int), 0, 0
	b, err := os.ReadFile(ids)
	require.NoError(t, err)
	for id := range strings.FieldsSeq(string(b)) {
		carriedOut[id]++
		if carriedOut[id] == 2 {
			doubled++
		}
	}
	for _, id := range m.answered {
		if carriedOut[id] == 0 {
			lost++
		}
	}
	if strings.Contains(logged.String(), "secret") {
		t.Error("the log has what a script logged after its answer")
		m.wrong.Add(1)
	}
	var leakedGoroutines, leakedDescriptors int
	for end := time.Now().Add(testTimeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		leakedGoroutines = runtime.NumGoroutine() - goroutines
		leakedDescriptors = openDescriptorCount(t) - descriptors
		if leakedGoroutines <= 0 && leakedDescriptors <= 0 {
			break
		}
	}
	t.Logf("%v: %d requests answered, %d given up, %d failed (%v); %d POSTs, %d of them failed; %d uploads; %d answers before their script's end",
		length, m.done.Load(), m.canceled.Load(), m.failed.Load(), m.statuses, m.posts.Load(), m.postsFailed.Load(), m.uploads.Load(), m.finishes.Load())
	t.Logf("%d workers killed, %d reloads; %+v", kills, reloads, stats)
	t.Logf("wrong answers: %d; POSTs carried out twice: %d; answered and not carried out: %d; leaked descriptors: %d, goroutines: %d",
		m.wrong.Load(), doubled, lost, max(leakedDescriptors, 0), max(leakedGoroutines, 0))
	require.Zero(t, m.wrong.Load())
	require.Zero(t, doubled)
	require.Zero(t, lost)
	require.LessOrEqual(t, leakedDescriptors, 0)
	require.LessOrEqual(t, leakedGoroutines, 0)
	require.Positive(t, m.done.Load())
	require.NotEmpty(t, m.answered)
	require.Positive(t, kills)
}
