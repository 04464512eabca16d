package tlsconn

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// A sealer makes records of TLS_AES_128_GCM_SHA256 as crypto/tls would not.
type sealer struct {
	t      *testing.T
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// expand is HKDF-Expand-Label of RFC 8446, 7.1, without a context.
func expand(t *testing.T, secret []byte, label string, size int) []byte {
	t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 "+label)))
	info = append(append(info, "tls13 "+label...), 0)
	key, err := hkdf.Expand(sha256.New, secret, string(info), size)
	require.NoError(t, err)
	return key
}

func (s *sealer) use(secret []byte) {
	block, err := aes.NewCipher(expand(s.t, secret, "key", 16))
	require.NoError(s.t, err)
	s.aead, err = cipher.NewGCM(block)
	require.NoError(s.t, err)
	s.secret, s.iv, s.seq = secret, expand(s.t, secret, "iv", 12), 0
}

func (s *sealer) record(kind byte, p []byte) []byte {
	header := []byte{23, 3, 3, 0, byte(len(p) + 1 + s.aead.Overhead())}
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(s.seq >> (56 - 8*i))
	}
	s.seq++
	return s.aead.Seal(header, nonce, append(bytes.Clone(p), kind), header)
}

// keyUpdate asks for one in return: RFC 8446, 4.6.3.
func (s *sealer) keyUpdate() []byte {
	r := s.record(22, []byte{24, 0, 0, 1, 1})
	s.use(expand(s.t, s.secret, "traffic upd", 32))
	return r
}
