// Package interop has tests that run drivers of other projects on client.Dialer, against real
// servers. See README.md.
package interop
