package main

import "time"

// A driver is a module whose test suite is run.
type driver struct {
	name   string // for -only
	module string
	modFor string // the file that has the requirements of its tests, if it is not go.mod
	edits  []edit // what has it dial with the package dials
	suites []suite

	// known are differences that stay, with their causes, by the suite's id and the
	// test's name: what cannot be with any conn but net's.
	known map[string]string

	// serve starts the servers that the tests need, for one run of all suites. dir
	// is the copy. It may be nil.
	serve func(dir string) (*serving, error)
}

// A suite is a package with tests that make connections.
type suite struct {
	dir     string // of the package, "." is the module's
	args    []string
	limit   time.Duration // of one run
	specs   bool          // has a suite of Ginkgo's too, which go test takes for one test
	notThis string        // a pattern of tests that are left out, for go test's -skip
	why     string        // they are
}

// A serving is what the tests find their servers by.
type serving struct {
	env  []string
	args []string // of the test programs
	stop func()
}

func (d driver) goMod() string {
	if d.modFor != "" {
		return d.modFor
	}
	return "go.mod"
}

// id is how a suite's package is called in names of files and of tests.
func (s suite) id() string {
	if s.dir == "." {
		return "root"
	}
	return s.dir
}
