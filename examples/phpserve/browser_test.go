//go:build browser

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// A browser is a headless Chromium that is controlled by W3C WebDriver.
type browser struct {
	t       *testing.T
	session string
}

func startBrowser(t *testing.T) *browser {
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
	b := &browser{t: t, session: "http://127.0.0.1:" + port + "/session"}
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

func (b *browser) do(method, path string, ask, answer any) {
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

func (b *browser) open(url string) {
	b.t.Helper()
	b.do(http.MethodPost, "/url", map[string]string{"url": url}, nil)
}

// element returns the path of the element that a selector finds.
func (b *browser) element(using, value string) string {
	b.t.Helper()
	var found map[string]string
	b.do(http.MethodPost, "/element", map[string]string{"using": using, "value": value}, &found)
	for _, id := range found {
		return "/element/" + id
	}
	b.t.Fatal("no ", value)
	return ""
}

func (b *browser) click(using, value string) {
	b.t.Helper()
	b.do(http.MethodPost, b.element(using, value)+"/click", struct{}{}, nil)
}

func (b *browser) types(css, text string) {
	b.t.Helper()
	b.do(http.MethodPost, b.element("css selector", css)+"/value", map[string]string{"text": text}, nil)
}

// sees waits for an element that contains a text.
func (b *browser) sees(name, text string) {
	b.t.Helper()
	b.element("xpath", fmt.Sprintf("//%s[contains(., %q)]", name, text))
}

func TestBrowser_DemoSite(t *testing.T) {
	eachSite(t, func(t *testing.T, url string) {
		b := startBrowser(t)
		b.open(url)
		b.sees("h1", "Home")

		b.click("link text", "Form")
		b.types("#name", "<Ada>")
		b.click("css selector", "button")
		b.sees("p[@id='greeting']", "Hello, <Ada>!")

		b.click("link text", "Counter")
		for n := 1; n <= 3; n++ {
			b.sees("p[@id='count']", fmt.Sprint(n))
			b.click("link text", "Again")
		}

		b.click("link text", "Upload")
		file := filepath.Join(t.TempDir(), "picture.bin")
		require.NoError(t, os.WriteFile(file, make([]byte, 300_000), 0o600))
		b.types("input[type=file]", file)
		b.click("css selector", "button")
		b.sees("p[@id='size']", "picture.bin: 300000 bytes")

		b.click("link text", "Info")
		b.sees("body", "SCRIPT_FILENAME")
	})
}

func TestBrowser_FrontControllers(t *testing.T) {
	requirePHP(t)
	for name, front := range frontControllers {
		t.Run(name, func(t *testing.T) {
			b := startBrowser(t)
			b.open(serve(t, front.root, "/index.php", "") + front.path)
			b.sees("h1", front.heading)
			b.click("link text", "Relative") // stays inside the site, whatever the path is
			b.sees("h1", "/relative")
		})
	}
}
