//go:build browser

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/blocksock/client/internal/testbrowser"
	"github.com/stretchr/testify/require"
)

func TestBrowser_DemoSite(t *testing.T) {
	eachSite(t, func(t *testing.T, url string) {
		b := testbrowser.Start(t)
		b.Open(url)
		b.See("h1", "Home")

		b.Click("link text", "Form")
		b.Type("#name", "<Ada>")
		b.Click("css selector", "button")
		b.See("p[@id='greeting']", "Hello, <Ada>!")

		b.Click("link text", "Counter")
		for n := 1; n <= 3; n++ {
			b.See("p[@id='count']", fmt.Sprint(n))
			b.Click("link text", "Again")
		}

		b.Click("link text", "Upload")
		file := filepath.Join(t.TempDir(), "picture.bin")
		require.NoError(t, os.WriteFile(file, make([]byte, 300_000), 0o600))
		b.Type("input[type=file]", file)
		b.Click("css selector", "button")
		b.See("p[@id='size']", "picture.bin: 300000 bytes")

		b.Click("link text", "Info")
		b.See("body", "SCRIPT_FILENAME")
	})
}

func TestBrowser_FrontControllers(t *testing.T) {
	requirePHP(t)
	for name, front := range frontControllers {
		t.Run(name, func(t *testing.T) {
			b := testbrowser.Start(t)
			b.Open(serve(t, front.root, "/index.php", "") + front.path)
			b.See("h1", front.heading)
			b.Click("link text", "Relative") // stays inside the site, whatever the path is
			b.See("h1", "/relative")
		})
	}
}
