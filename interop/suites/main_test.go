package main

import (
	"testing"

	"github.com/blocksock/client/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }
