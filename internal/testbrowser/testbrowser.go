// Package testbrowser drives a headless Chromium. It needs Debian's packages chromium and
// chromium-driver.
package testbrowser

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Browser is a headless Chromium that is controlled by W3C WebDriver.
type Browser struct {
	t       *testing.T
	session string
}

// Start starts a browser that ends with the test.
func Start(t *testing.T) *Browser {
	t.Helper()
	driver := exec.Command("chromedriver", "--port=0")
	out, err := driver.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, driver.Start(), "install chromium-driver")
	t.Cleanup(func() {
		_ = driver.Process.Kill()
		_ = driver.Wait()
	})
	port := ""
	for lines := bufio.NewScanner(out); port == "" && lines.Scan(); {
		if m := regexp.MustCompile(`successfully on port (\d+)`).FindStringSubmatch(lines.Text()); m != nil {
			port = m[1]
		}
	}
	require.NotEmpty(t, port)
	b := &Browser{t: t, session: "http://127.0.0.1:" + port + "/session"}
	var made struct{ SessionID string }
	b.do(http.MethodPost, "", map[string]any{"capabilities": map[string]any{"alwaysMatch": map[string]any{
		"browserName": "chrome",
		"goog:chromeOptions": map[string]any{
			"args": []string{"--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir()},
		},
	}}}, &made)
	b.session += "/" + made.SessionID
	b.do(http.MethodPost, "/timeouts", map[string]int{"implicit": 20_000}, nil) // how long to wait for an element
	t.Cleanup(func() {
		b.do(http.MethodDelete, "", nil, nil)
		http.DefaultClient.CloseIdleConnections()
	})
	return b
}

func (b *Browser) do(method, path string, ask, answer any) {
	b.t.Helper()
	var body bytes.Buffer
	if ask != nil {
		require.NoError(b.t, json.NewEncoder(&body).Encode(ask))
	}
	req, err := http.NewRequest(method, b.session+path, &body)
	require.NoError(b.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	var got struct{ Value json.RawMessage }
	require.NoError(b.t, json.NewDecoder(resp.Body).Decode(&got))
	require.Equal(b.t, http.StatusOK, resp.StatusCode, "%s: %s", path, got.Value)
	if answer != nil {
		require.NoError(b.t, json.Unmarshal(got.Value, answer))
	}
}

// Open opens a page.
func (b *Browser) Open(url string) {
	b.t.Helper()
	b.do(http.MethodPost, "/url", map[string]string{"url": url}, nil)
}

// Element returns the path of the element that a selector finds.
func (b *Browser) Element(using, value string) string {
	b.t.Helper()
	var found map[string]string
	b.do(http.MethodPost, "/element", map[string]string{"using": using, "value": value}, &found)
	for _, id := range found {
		return "/element/" + id
	}
	b.t.Fatal("no ", value)
	return ""
}

// Click clicks on the element that a selector finds.
func (b *Browser) Click(using, value string) {
	b.t.Helper()
	b.do(http.MethodPost, b.Element(using, value)+"/click", struct{}{}, nil)
}

// Type types a text, or the path of a file, into the element that a selector finds.
func (b *Browser) Type(css, text string) {
	b.t.Helper()
	b.do(http.MethodPost, b.Element("css selector", css)+"/value", map[string]string{"text": text}, nil)
}

// See waits for an element that contains a text.
func (b *Browser) See(name, text string) {
	b.t.Helper()
	b.Element("xpath", fmt.Sprintf("//%s[contains(., %q)]", name, text))
}

// Resize sets the size of the page in CSS pixels, and whether it prefers dark colours.
func (b *Browser) Resize(width, height int, dark bool) {
	b.t.Helper()
	b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false})
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.devtools("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
}

func (b *Browser) devtools(command string, params map[string]any) {
	b.t.Helper()
	b.do(http.MethodPost, "/goog/cdp/execute", map[string]any{"cmd": command, "params": params}, nil)
}

// Run runs a script in the page, and stores what it returns.
func (b *Browser) Run(script string, result any) {
	b.t.Helper()
	b.do(http.MethodPost, "/execute/sync", map[string]any{"script": script, "args": []any{}}, result)
}

// Screenshot returns the visible part of the page as a PNG.
func (b *Browser) Screenshot() (png []byte) {
	b.t.Helper()
	b.do(http.MethodGet, "/screenshot", nil, &png) // base64, as encoding/json decodes it
	return png
}
