// Package docs_test checks that the code in the documents is code: every name in it
// exists, every call and every block has the right types.
package docs_test

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// The documents. Code in them is what is in backticks or in a fenced block. Commands are
// indented, and names of the system (TCP_NODELAY, poll(2)) are plain text.
var documents = []string{"../README.md", "*.md"}

// In this one the first column of a table is PHP.
const swoole = "from-swoole.md"

// What code in the documents may refer to: these packages, the names of package client
// also without its name, and these variables.
const scope = `package docs

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"iter"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blocksock/client"
	. "github.com/blocksock/client"
	"github.com/blocksock/client/debug"
	"github.com/blocksock/client/fastcgi"
)

func use(packet []byte) error
func get(c *client.Client, key string) error

func document(
	c *client.Client, conn net.Conn, pool *client.Pool, dialer *client.Dialer, err error,
	ctx context.Context, address, network string, opts *client.Options, timeout time.Duration,
	p []byte, ds []client.Datagram, f *os.File, offset, length int64, addr net.Addr, addrPort netip.AddrPort,
	read, write, except []*client.Client, t time.Time, cfg *tls.Config, resolver *net.Resolver,
	a, other *client.AsyncClient, async client.AsyncConfig, w io.Writer,
) error {
	%s
	return nil // here the code is checked
}
`

func TestDocuments_CodeCompiles(t *testing.T) {
	_, err := emptyScope()
	require.NoError(t, err)
	var files []string
	for _, pattern := range documents {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, found, pattern)
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		snippets := extract(string(text), filepath.Base(file) == swoole)
		require.NotEmpty(t, snippets, file)
		for _, s := range snippets {
			if err := compile(s.code); err != nil {
				t.Errorf("%s:%d: `%s`: %v", filepath.Base(file), s.line, s.code, err)
			}
		}
	}
}

func TestDocuments_CodeThatDoesNotCompileIsFound(t *testing.T) {
	for _, code := range []string{
		"Recv", "Options.Timeout", "client.Options.Timeout", "Client.Recv", "*OptionError", "client.WaitAll", "io.EOF",
		"net.Dialer.Timeout", "Options{Timeout: time.Second}", "c.Recv(p, client.WaitAll)", "defer c.Close()",
		"errors.Is(err, unix.EAGAIN)", "[]*client.Client", "nil", "n, err := c.Recv(p, 0)",
		"package main\n\nimport \"os\"\n\nfunc main() { os.Exit(1) }",
	} {
		require.NoError(t, compile(code), code)
	}
	for _, code := range []string{
		"Receive", "Options.Timeouts", "client.Options.Timeouts", "Client.Receive", "*OptionErrors", "client.WaitSome", "io.EOFs",
		"net.Dialer.Limit", "Options{Timeouts: time.Second}", "c.Recv(client.WaitAll, p)", "defer c.Shut()",
		"recv", "go run", "Options.timeout", "n, err := c.Recv(p)", "net",
		"package main\n\nimport \"os\"\n\nfunc main() { os.Leave(1) }",
	} {
		require.Error(t, compile(code), code)
	}
}

func TestDocuments_CodeIsExtracted(t *testing.T) {
	const text = "The `c` is\n\n    a `command`\n\n```go\na\nb\n```\n\n" +
		"| field of `T` | default |\n| --- | --- |\n| `A`, `B` | `one` |\n\n| call |  |\n| `f` | `two` |\n"
	require.Equal(t, []snippet{{1, "c"}, {5, "a\nb\n"}, {10, "T"}, {12, "T.A"}, {12, "T.B"}, {12, "one"}, {15, "f"}, {15, "two"}},
		extract(text, false))
	require.Equal(t, []snippet{{1, "c"}, {5, "a\nb\n"}, {12, "one"}, {15, "two"}}, extract(text, true))
}

func TestDocuments_LinksLeadToFiles(t *testing.T) {
	found, err := filepath.Glob("../*.md")
	require.NoError(t, err)
	inside, err := filepath.Glob("../*/*.md")
	require.NoError(t, err)
	link := regexp.MustCompile(`\]\(([^):#]+)(#[^)]*)?\)`) // not of the web, nor within the document
	for _, file := range append(found, inside...) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(file), m[1]))
			require.NoError(t, err, "%s: %s", file, m[0])
		}
	}
}

type snippet struct {
	line int
	code string
}

var (
	inline   = regexp.MustCompile("`([^`]+)`")
	fieldsOf = regexp.MustCompile("^ field of `(\\w+)` $") // the first column of a table of fields
)

// extract gives the code of a document in Markdown.
func extract(text string, foreign bool) (snippets []snippet) {
	var block *snippet
	prefix := "" // of what is in the first column of this table
	for i, line := range strings.Split(text, "\n") {
		add := func(prefix, text string) {
			for _, m := range inline.FindAllStringSubmatch(text, -1) {
				snippets = append(snippets, snippet{i + 1, prefix + m[1]})
			}
		}
		switch {
		case strings.HasPrefix(line, "```") && block != nil:
			snippets, block = append(snippets, *block), nil
		case strings.HasPrefix(line, "```"):
			block = &snippet{line: i + 1}
		case block != nil:
			block.code += line + "\n"
		case strings.HasPrefix(line, "    "):
		case strings.HasPrefix(line, "|"):
			first, rest, _ := strings.Cut(line[1:], "|")
			if !foreign {
				add(prefix, first)
			}
			if m := fieldsOf.FindStringSubmatch(first); m != nil {
				prefix = m[1] + "."
			}
			add("", rest)
		default:
			prefix = ""
			add("", line)
		}
	}
	return snippets
}

var (
	files    = token.NewFileSet()
	fromCode = sync.OnceValue(func() types.Importer {
		build.Default.CgoEnabled = false // package net can do without, and then there need be no C compiler
		return importCache{importer.ForCompiler(files, "source", nil), make(map[string]*types.Package)}
	})
	emptyScope = sync.OnceValues(func() (*types.Package, error) { return check(fmt.Sprintf(scope, "")) })
)

// An importCache imports each package once. The importer itself runs "go list" each time.
type importCache struct {
	types.Importer
	known map[string]*types.Package
}

func (c importCache) Import(path string) (*types.Package, error) {
	if pkg := c.known[path]; pkg != nil {
		return pkg, nil
	}
	pkg, err := c.Importer.Import(path)
	if err == nil {
		c.known[path] = pkg
	}
	return pkg, err
}

// check type-checks a file.
func check(code string) (*types.Package, error) {
	file, err := parser.ParseFile(files, "", code, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var first error
	config := types.Config{Importer: fromCode(), Error: func(err error) {
		if soft := err.(types.Error).Soft; !soft && first == nil { //nolint:errorlint // go/types documents that type
			first = err // what is soft is a variable or an import that is not used
		}
	}}
	pkg, _ := config.Check("docs", files, []*ast.File{file}, nil)
	return pkg, first
}

// compile type-checks code: a file, a name, an expression, or statements.
func compile(code string) error {
	if strings.HasPrefix(code, "package ") {
		_, err := check(code)
		return err
	}
	expr, err := parser.ParseExpr(code)
	if err != nil {
		_, err = check(fmt.Sprintf(scope, code))
		return err
	}
	pkg, err := emptyScope()
	if err != nil {
		return err
	}
	variables := pkg.Scope().Lookup("document").(*types.Func).Scope()
	_, err = types.Eval(files, pkg, variables.End()-1, code)
	if err != nil && isMember(pkg, variables, expr) {
		return nil
	}
	return err
}

// isMember reports whether expr is T.Name for a field or method of T or *T, or the name of
// one of Client, Pool or Options, as documentation has it and Go does not.
func isMember(pkg *types.Package, variables *types.Scope, expr ast.Expr) bool {
	var owners []string
	var name *ast.Ident
	switch expr := expr.(type) {
	case *ast.SelectorExpr:
		owners, name = []string{types.ExprString(expr.X)}, expr.Sel
	case *ast.Ident:
		owners, name = []string{"Client", "Pool", "Options"}, expr
	default:
		return false
	}
	for _, owner := range owners {
		of, err := types.Eval(files, pkg, variables.End()-1, owner)
		if err != nil || !of.IsType() {
			continue
		}
		if object, _, _ := types.LookupFieldOrMethod(of.Type, true, pkg, name.Name); object != nil {
			return true
		}
	}
	return false
}
