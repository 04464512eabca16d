//go:build browser

package debug

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/blocksock/client"
	"github.com/blocksock/client/internal/testbrowser"
	"github.com/stretchr/testify/require"
)

// overlaps is a script that finds texts which cover each other, and what is wider than the
// page.
const overlaps = `
const found = [], boxes = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
if (document.documentElement.scrollWidth > innerWidth)
	found.push("the page is " + document.documentElement.scrollWidth + " wide in a window of " + innerWidth);
while (texts.nextNode()) {
	if (!texts.currentNode.data.trim()) continue;
	const range = document.createRange();
	range.selectNodeContents(texts.currentNode);
	for (const box of range.getClientRects()) boxes.push([box, texts.currentNode.data.trim()]);
}
for (const svg of document.querySelectorAll("td > svg")) boxes.push([svg.getBoundingClientRect(), "a plot"]);
for (const [a, s] of boxes) for (const [b, t] of boxes)
	if (a !== b && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
		found.push(s + " covers " + t);
return found;`

// contrasts is a script that returns the lowest contrast of a text with its background
// (WCAG 2.2, 1.4.3), and the text.
const contrasts = `
const rgb = s => s.match(/[\d.]+/g).map(Number);
const light = s => { const [r, g, b] = rgb(s).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return "rgb(255, 255, 255)"; };
let lowest = [99, ""];
for (const e of document.querySelectorAll("body *")) {
	if (!e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
	const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
	const ratio = (a + .05) / (b + .05);
	if (ratio < lowest[0]) lowest = [ratio, e.textContent.trim()];
}
return lowest;`

// busyHandler is a Handler with ten minutes of a pool's life, an unused pool, and calls that
// wait. It is what programs show on a bad day.
func busyHandler(t *testing.T) *Handler {
	h := NewHandler(map[string]*client.Pool{"redis": client.NewPool(client.PoolOptions{MaxConnsPerKey: 8}), "unused": client.NewPool(client.PoolOptions{})})
	t.Cleanup(func() { _ = h.Close() })
	names := []keyName{
		{"", "tcp", "cache-1.internal.example:6379"}, {"reports", "tcp", "cache-1.internal.example:6379"},
		{"<script>alert(1)</script>", "tcp", "[2001:db8:85a3:1234:5678:8a2e:370:7334]:6379"},
		{"", "unix", "/run/a/long/path/of/an/application/that/is/deployed/by/a/tool/and/listens.sock"},
	}
	var now poolStats
	now.name, now.maxConns = "redis", 8
	for _, n := range names {
		now.keys = append(now.keys, keyStats{keyName: n})
	}
	past := newHistory(now)
	for minute := range maxPoints {
		now.total = client.KeyStats{}
		for i := range now.keys {
			k := &now.keys[i].KeyStats
			k.Checkouts += uint64(400 + 100*i + minute%17*30)
			k.Reuses += uint64(380 + 90*i + minute%17*30)
			k.Active, k.Idle = (minute+i)%8, 8-(minute+i)%8
			k.Discards[client.DiscardIdleTimeout] += uint64(minute % 3)
			if minute/10%3 == 1 {
				k.Discards[client.DiscardDead] += uint64(minute % 10)
				k.Discards[client.DiscardUnclean]++
				k.Discards[client.DiscardFailed]++
				k.Discards[client.DiscardOverLimit]++
				k.Discards[client.DiscardCloseIdle]++
			}
			if minute > 100 {
				k.Active, k.Idle, k.Waiting, k.LongestWait = 8, 0, 10+minute%20, 2345*time.Millisecond
			}
			now.total.Add(k)
		}
		past.add(now)
	}
	h.histories["redis"] = past
	h.readPool = func(name string, pool *client.Pool) poolStats {
		if name == "redis" {
			return now
		}
		return readPool(name, pool)
	}
	return h
}

// CLIENT_SCREENSHOTS is a directory to store what the browser shows in.
func TestBrowser_PageIsReadableAtEveryWidthAndInTheDark(t *testing.T) {
	defer client.SetMaxThreads(client.SetMaxThreads(0))
	for range 3 {
		waitingClient(t)
	}
	server := httptest.NewServer(busyHandler(t))
	defer server.Close()
	b := testbrowser.Start(t)
	for _, width := range []int{360, 800, 1280, 1920} {
		for _, dark := range []bool{false, true} {
			t.Run(fmt.Sprint(width, dark), func(t *testing.T) {
				b.Resize(width, 1000, dark)
				b.Open(server.URL + "/debug/client?pause")
				b.See("h2", "Pool redis")
				b.See("td", "<script>alert(1)</script>")
				if dir := os.Getenv("CLIENT_SCREENSHOTS"); dir != "" {
					require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("debug-%d-%v.png", width, dark)), b.Screenshot(), 0o600))
				}
				var found []string
				b.Run(overlaps, &found)
				require.Empty(t, found)
				var lowest [2]any
				b.Run(contrasts, &lowest)
				require.Greater(t, lowest[0], 4.5, "%q is hard to read", lowest[1])
			})
		}
	}
	var background string
	b.Run(`return getComputedStyle(document.body).backgroundColor`, &background)
	require.Equal(t, "rgb(20, 23, 27)", background, "dark")
}

func TestBrowser_PageRefreshesItself(t *testing.T) {
	server := httptest.NewServer(busyHandler(t))
	defer server.Close()
	b := testbrowser.Start(t)
	b.Open(server.URL)
	b.Run(`document.body.dataset.old = "yes"; return null`, nil)
	b.Element("css selector", "body:not([data-old])") // waits for the next page
	b.Click("link text", "Stop refreshing")
	b.See("a", "Refresh every 5 s")
}

func waitingClient(t *testing.T) {
	ln := httptest.NewServer(nil)
	c, err := client.Dial("tcp", ln.Listener.Addr().String(), &client.Options{Timeout: -1})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = c.Recv(make([]byte, 1), 0) }()
	t.Cleanup(func() { _ = c.Close(); <-done; ln.Close() })
}
