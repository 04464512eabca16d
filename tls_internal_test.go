package client

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A zone means something on this machine alone; no certificate has one.
func TestTLSConfig_NameToVerifyHasNoZone(t *testing.T) {
	s, err := new(TLSOptions).load()
	require.NoError(t, err)
	s, err = s.forHost("fe80::1%lo")
	require.NoError(t, err)
	require.Equal(t, "fe80::1", s.base.ServerName)
}
