package testleak

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

func TestMain_LeakedDescriptorIsReported(t *testing.T) {
	if len(descriptors()) == 0 {
		t.Skip("this system does not tell")
	}
	before := descriptors()
	f, err := os.CreateTemp(t.TempDir(), "left")
	if err != nil {
		t.Fatal(err)
	}
	if left(before) == nil {
		t.Error("not noticed")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := left(before); err != nil {
		t.Error(err)
	}
}

func TestMain_LeakedGoroutineIsReported(t *testing.T) {
	before := descriptors()
	block := make(chan struct{})
	go func() { <-block }()
	if left(before) == nil {
		t.Error("not noticed")
	}
	close(block)
	if err := left(before); err != nil {
		t.Error(err)
	}
}
