package debug

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blocksock/client"
)

// A Handler is an http.Handler that shows pools and waiting calls, and an expvar.Var.
// It may be mounted at any path. Make it with NewHandler.
type Handler struct {
	pools map[string]*client.Pool
	names []string // of pools, sorted

	readPool func(name string, pool *client.Pool) poolStats // readPool, except in tests

	mu        sync.Mutex
	timer     *time.Timer // nil: the Handler is closed
	histories map[string]*history
}

// NewHandler returns a Handler for these pools. The key is the name that the page shows. It
// copies the map. It panics if a pool is nil.
//
// The Handler samples the pools' counters until Close. A Handler that is not closed keeps
// its pools reachable.
func NewHandler(pools map[string]*client.Pool) *Handler {
	pools = withValidNames(pools)
	h := &Handler{
		pools: pools, names: slices.Sorted(maps.Keys(pools)),
		readPool: readPool, histories: make(map[string]*history),
	}
	for _, p := range h.read() {
		h.histories[p.name] = newHistory(p)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(sampleInterval, h.sample)
	return h
}

// withValidNames makes the names valid UTF-8, because those of JSON are. They stay distinct.
func withValidNames(pools map[string]*client.Pool) map[string]*client.Pool {
	valid := make(map[string]*client.Pool, len(pools))
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if pools[name] == nil {
			panic(fmt.Sprintf("debug: pool %q is nil: make it with client.NewPool, or leave it out", name))
		}
		text := strings.ToValidUTF8(name, "\uFFFD")
		for valid[text] != nil || text != name && pools[text] != nil {
			text += "\uFFFD"
		}
		valid[text] = pools[name]
	}
	return valid
}

// Close ends sampling. The Handler goes on to serve what it has. A second Close does
// nothing. The error is nil.
func (h *Handler) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	return nil
}

// sample adds a point to each history.
func (h *Handler) sample() {
	now := h.read()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer == nil {
		return
	}
	for _, p := range now {
		h.histories[p.name].add(p)
	}
	h.timer.Reset(sampleInterval)
}

// read reads the counters of all pools, sorted by name.
func (h *Handler) read() []poolStats {
	all := make([]poolStats, len(h.names))
	for i, name := range h.names {
		all[i] = h.readPool(name, h.pools[name])
	}
	return all
}

// ServeHTTP answers with the page or, if the query is format=json, with JSON.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "the page can only be read: use GET", http.StatusMethodNotAllowed)
		return
	}
	var body bytes.Buffer
	if r.URL.Query().Get("format") == "json" {
		header.Set("Content-Type", "application/json")
		body.Write(h.json(true))
	} else {
		header.Set("Content-Type", "text/html; charset=utf-8")
		// No script runs, even if a name on the page were not escaped.
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		if err := h.page(&body, !r.URL.Query().Has("pause")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	_, _ = w.Write(body.Bytes())
}
