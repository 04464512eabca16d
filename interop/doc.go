// Package interop has the drivers that others wrote run on client.Dialer, against the
// servers that they are for. It is all tests; see README.md.
package interop
