package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSpecs_ReplaceTheTestThatRunsThem(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report")
	require.NoError(t, os.WriteFile(report, []byte(`[{"SpecReports": [
		{"LeafNodeType": "BeforeSuite", "State": "passed"},
		{"ContainerHierarchyTexts": ["A", "b"], "LeafNodeType": "It", "LeafNodeText": "works", "State": "passed"},
		{"ContainerHierarchyTexts": ["A"], "LeafNodeType": "It", "LeafNodeText": "panics", "State": "panicked"},
		{"ContainerHierarchyTexts": ["A"], "LeafNodeType": "It", "LeafNodeText": "waits", "State": "pending"},
		{"ContainerHierarchyTexts": ["A"], "LeafNodeType": "It", "LeafNodeText": "twice", "State": "failed"},
		{"ContainerHierarchyTexts": ["A"], "LeafNodeType": "It", "LeafNodeText": "twice", "State": "passed"}
	]}]`), 0o600))
	all := outcomes{specTest: failed, "TestOther": passed}
	require.NoError(t, addSpecs(all, report))
	require.Equal(t, outcomes{
		"TestOther":            passed,
		specName + "A b works": passed, specName + "A panics": failed, specName + "A waits": skipped, specName + "A twice": failed,
	}, all)
}

func TestSpecs_SingleSpecIsFocused(t *testing.T) {
	require.Equal(t, []string{"-test.run=^TestGinkgoSuite$", `-ginkgo.focus=A \(b\) works$`}, alone(specName+"A (b) works"))
}
