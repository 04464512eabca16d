package main

import (
	"embed"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"strconv"
	"strings"
)

//go:embed site
var site embed.FS

// startEmbedded starts an application that serves the demo site as its PHP scripts do.
func startEmbedded(address string) (string, string, func(), error) {
	ln, err := net.Listen("unix", address)
	if err != nil {
		return "", "", nil, err
	}
	mux := http.NewServeMux()
	home := page("Home", func(_ http.ResponseWriter, _ *http.Request) string {
		return `<p>This page is made by an application in Go.</p>`
	})
	mux.HandleFunc("/{$}", home) // REQUEST_URI of the directory whose index is index.php
	mux.HandleFunc("/index.php", home)
	mux.HandleFunc("/form.php", page("Form", func(_ http.ResponseWriter, r *http.Request) string {
		name := r.PostFormValue("name")
		if name == "" {
			return `<form method="post"><input name="name" id="name"><button>Send</button></form>`
		}
		return `<p id="greeting">Hello, ` + html.EscapeString(name) + `!</p>`
	}))
	mux.HandleFunc("/counter.php", page("Counter", func(w http.ResponseWriter, r *http.Request) string {
		n := 0
		if c, err := r.Cookie("count"); err == nil {
			n, _ = strconv.Atoi(c.Value)
		}
		http.SetCookie(w, &http.Cookie{Name: "count", Value: strconv.Itoa(n + 1)})
		return fmt.Sprintf(`<p id="count">%d</p><p><a href="counter.php">Again</a></p>`, n+1)
	}))
	mux.HandleFunc("/upload.php", page("Upload", func(_ http.ResponseWriter, r *http.Request) string {
		f, header, err := r.FormFile("file")
		if err != nil {
			return `<form method="post" enctype="multipart/form-data"><input type="file" name="file"><button>Send</button></form>`
		}
		defer f.Close()
		n, _ := io.Copy(io.Discard, f)
		return fmt.Sprintf(`<p id="size">%s: %d bytes</p>`, html.EscapeString(header.Filename), n)
	}))
	mux.HandleFunc("/info.php", page("Info", func(_ http.ResponseWriter, r *http.Request) string {
		var s strings.Builder
		s.WriteString("<table>")
		for name, value := range fcgi.ProcessEnv(r) {
			s.WriteString("<tr><td>" + html.EscapeString(name) + "<td>" + html.EscapeString(value))
		}
		return s.String() + "</table>"
	}))
	go func() { _ = fcgi.Serve(ln, mux) }()
	return "unix", address, func() { _ = ln.Close() }, nil
}

// page returns a handler of a page with the links that all pages have.
func page(title string, body func(w http.ResponseWriter, r *http.Request) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text := body(w, r)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, `<!DOCTYPE html>
<title>%s</title><link rel="stylesheet" href="style.css">
<nav><a href="index.php">Home</a> <a href="form.php">Form</a> <a href="counter.php">Counter</a> <a href="upload.php">Upload</a> <a href="info.php">Info</a></nav>
<h1>%s</h1>
%s
`, title, title, text)
	}
}
