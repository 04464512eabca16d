package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
)

// Ginkgo has specs in place of tests. To go test all of them are one test; their own
// results are in a file.

// specTest is the test that runs the specs.
const specTest = "TestGinkgoSuite"

// specName is what the names of specs begin with here.
const specName = specTest + ": "

// addSpecs adds the results of specs from a report of Ginkgo's, in place of those of the
// test that runs them.
func addSpecs(all outcomes, report string) error {
	content, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeType            string
			LeafNodeText            string
			State                   string
		}
	}
	if err := json.Unmarshal(content, &suites); err != nil {
		return err
	}
	delete(all, specTest)
	for _, suite := range suites {
		for _, spec := range suite.SpecReports {
			name := specName + strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " ")
			switch {
			case spec.LeafNodeType != "It" && spec.State == "passed": // a BeforeSuite is no spec, unless it fails
			case spec.State == "passed":
				if all[name] == "" { // of several with one name, the worst
					all[name] = passed
				}
			case spec.State == "skipped", spec.State == "pending":
				if all[name] != failed {
					all[name] = skipped
				}
			default:
				all[name] = failed
			}
		}
	}
	return nil
}

// alone gives the arguments with which a test program runs one test, or one spec. The
// program itself fails with all of them, if it does.
func alone(test string) []string {
	if test == program {
		return nil
	}
	if spec, ok := strings.CutPrefix(test, specName); ok {
		return []string{"-test.run=^" + specTest + "$", "-ginkgo.focus=" + regexp.QuoteMeta(spec) + "$"}
	}
	parts := strings.Split(test, "/")
	for i, part := range parts {
		parts[i] = "^" + strings.ReplaceAll(regexp.QuoteMeta(part), anyMark, "[0-9]+") + "$"
	}
	return []string{"-test.run=" + strings.Join(parts, "/")}
}
