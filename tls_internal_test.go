package client

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A zone means something on this machine alone; no certificate has one.
func TestTheNameToVerifyHasNoZone(t *testing.T) {
	s, err := new(TLSOptions).security()
	require.NoError(t, err)
	s, err = s.expecting("fe80::1%lo")
	require.NoError(t, err)
	require.Equal(t, "fe80::1", s.config.ServerName)
}
