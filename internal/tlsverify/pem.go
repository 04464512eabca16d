package tlsverify

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/youmark/pkcs8"
)

// A pemBlock is a block of a file, with the number of its first line for error messages.
type pemBlock struct {
	*pem.Block
	line int
}

// reject returns the error for a block that does not belong in the file. To ignore the
// block would drop a root, a list or an intermediate that the user believes to be in use.
func (b pemBlock) reject(why string) error {
	return fmt.Errorf("line %d: PEM block %q %s", b.line, b.Type, why)
}

const (
	pemBegin = "-----BEGIN"
	pemEnd   = "-----END"
	pemDash  = "-----"
)

// markerLike matches a line that is meant to be a BEGIN or END and is not one: in lower case,
// with other dashes or fewer of them, or with white space or invisible characters between.
var markerLike = regexp.MustCompile(`(?i)[\p{Pd}\x{2212}\x{ad}]{2}[^\pL\pN]*(BEGIN|END)\b|^[^\pL\pN]*(BEGIN|END)\b.*[\p{Pd}\x{2212}\x{ad}]{2}`)

// base64Line matches a line of the text of a block.
var base64Line = regexp.MustCompile(`^[A-Za-z0-9+/]{64,}$`)

// readFile reads a regular file. A FIFO or a device could block the call without end.
func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s: is a directory: name a file", file)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is not a regular file (%v): copy it to one", file, info.Mode().Type())
	}
	return os.ReadFile(file)
}

// isDER reports whether data begins with a DER SEQUENCE of 128 bytes or more, as every
// certificate and revocation list is. PEM does not: the second byte is not ASCII.
func isDER(data []byte) bool { return len(data) > 1 && data[0] == 0x30 && data[1] >= 0x80 }

// pemBlocks decodes all PEM blocks, or returns an error with the number of the line.
// encoding/pem skips what it cannot decode, and a BEGIN that is not at the start of its
// line. Here lines may end in CR, LF or both, and begin and end with white space. Other
// text between blocks is explanatory text (RFC 7468, 2), unless it looks like a damaged block.
func pemBlocks(data []byte) (blocks []pemBlock, err error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) || bytes.IndexByte(data, 0) >= 0 {
		return nil, errors.New("is not UTF-8 text (it may be UTF-16): save it as UTF-8")
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	var label string
	var text []byte // of the block that has begun
	begin, number, encoded := 0, 0, 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		number++
		line := string(bytes.TrimSpace(line))
		switch {
		case begin == 0 && isMarker(line, pemBegin):
			begin, label, text = number, markerLabel(line, pemBegin), nil
		case begin == 0 && base64Line.MatchString(line):
			if encoded++; encoded > 1 {
				return nil, fmt.Errorf("line %d: malformed PEM: base64 without a -----BEGIN label----- before it", number-1)
			}
			continue
		case begin == 0 && !markerLike.MatchString(line) && !strings.Contains(line, pemBegin) && !strings.Contains(line, pemEnd):
			encoded = 0
			continue // explanatory text
		case begin == 0:
			return nil, fmt.Errorf("line %d: malformed PEM: the line must be -----BEGIN label----- or the -----END label----- of the block before it, and nothing else", number)
		case isMarker(line, pemEnd) && markerLabel(line, pemEnd) == label:
			text = append(append(text, line...), '\n')
			b, rest := pem.Decode(text)
			if b == nil || len(rest) > 0 {
				return nil, fmt.Errorf("line %d: PEM block %q is malformed", begin, label)
			}
			blocks = append(blocks, pemBlock{b, begin})
			begin, encoded = 0, 0
			continue
		case strings.Contains(line, pemDash):
			return nil, fmt.Errorf("line %d: PEM block %q has no -----END %s----- before line %d", begin, label, label, number)
		}
		text = append(append(text, line...), '\n')
	}
	if begin > 0 {
		return nil, fmt.Errorf("line %d: PEM block %q is malformed: the file ends before it does", begin, label)
	}
	return blocks, nil
}

func isMarker(line, marker string) bool {
	label := markerLabel(line, marker)
	return label != "" && line == marker+" "+label+pemDash && !strings.Contains(label, pemDash)
}

func markerLabel(line, marker string) string {
	return strings.TrimSuffix(strings.TrimPrefix(line, marker+" "), pemDash)
}

func isCertificate(b pemBlock) bool {
	return b.Type == "CERTIFICATE" || b.Type == "X509 CERTIFICATE" // the older name, RFC 7468, 5.1 and appendix A
}

func isPrivateKey(b pemBlock) bool {
	return b.Type == "PRIVATE KEY" || strings.HasSuffix(b.Type, " PRIVATE KEY")
}

// isParameters reports whether a block has parameters: the curve that openssl-ecparam(1)
// writes before a key, or the DH PARAMETERS that servers keep with their certificate.
func isParameters(b pemBlock) bool { return strings.HasSuffix(b.Type, " PARAMETERS") }

// rejectNonCertificate returns the error for a block that is not a certificate, in a file of them.
func rejectNonCertificate(b pemBlock) error {
	switch {
	case b.Type == "TRUSTED CERTIFICATE":
		return b.reject("has trust settings of openssl, which may reject it and are not supported: convert it with openssl x509 -in FILE -out FILE")
	case b.Type == "X509 CRL":
		return b.reject("is a revocation list, which has no effect here: move it to CRLFile")
	case b.Type == "PKCS7" || b.Type == "CMS":
		return b.reject("is not supported: convert it with openssl pkcs7 -print_certs")
	case isPrivateKey(b):
		return b.reject("is a private key, which does not belong among trusted authorities: remove it")
	}
	return b.reject("is not a certificate: remove it")
}

// rehashName matches the name that openssl-rehash(1) gives to a link to a certificate.
var rehashName = regexp.MustCompile(`^[0-9a-f]{8}\.[0-9]+$`)

// readDirectory reads the certificates in a CAPath.
func readDirectory(dir string) (all []*x509.Certificate, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch strings.ToLower(filepath.Ext(e.Name())) {
		case ".pem", ".crt", ".cer":
		default:
			if !rehashName.MatchString(e.Name()) {
				continue
			}
		}
		file := filepath.Join(dir, e.Name())
		if info, err := os.Stat(file); err == nil && info.IsDir() { // e.Type is the link's
			continue
		}
		certs, err := readCertificates(file)
		if err != nil {
			return nil, err
		}
		all = append(all, certs...)
	}
	if all == nil {
		return nil, fmt.Errorf("%s: the directory has no file named *.pem, *.crt or *.cer or by openssl-rehash", dir)
	}
	return all, nil
}

// readCertificates reads a file of certificates. x509's AppendCertsFromPEM would skip what
// it cannot parse, and the cause of a missing root is hard to find.
func readCertificates(file string) (certs []*x509.Certificate, err error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if certs, err = parseCertificates(data); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return certs, nil
}

func parseCertificates(data []byte) (certs []*x509.Certificate, err error) {
	if isDER(data) {
		return nil, errors.New("is DER, not PEM: convert it with openssl x509 -inform DER")
	}
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		if !isCertificate(b) {
			return nil, rejectNonCertificate(b)
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", b.line, err)
		}
		certs = append(certs, cert)
	}
	if certs == nil {
		return nil, errors.New("has no certificate in PEM")
	}
	return certs, nil
}

// readChain reads a CertFile.
func readChain(file string) (chain []byte, err error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if chain, err = chainBlocks(data); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return chain, nil
}

// readKey reads a KeyFile.
func readKey(file, passphrase string) (key []byte, err error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if key, err = decryptKey(data, passphrase); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// chainBlocks returns the certificates of a file, which may have the key too, with the
// label that tls.X509KeyPair knows: it skips all others.
func chainBlocks(data []byte) (chain []byte, err error) {
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		switch {
		case isCertificate(b):
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes})...)
		case isPrivateKey(b), isParameters(b): // certificate and key in one file
		default:
			return nil, rejectNonCertificate(b)
		}
	}
	if chain == nil {
		return nil, errors.New("has no certificate in PEM")
	}
	return chain, nil
}

// decryptKey returns the private key of a file in PEM, decrypted.
func decryptKey(data []byte, passphrase string) ([]byte, error) {
	blocks, err := pemBlocks(data)
	if err != nil {
		return nil, err
	}
	var b *pem.Block
	for _, block := range blocks {
		switch {
		case isPrivateKey(block) && b != nil:
			return nil, block.reject("is a second private key: KeyFile must have one, remove the other")
		case isPrivateKey(block):
			b = block.Block
		case isCertificate(block), block.Type == "TRUSTED CERTIFICATE", isParameters(block): // certificate and key in one file
		default:
			return nil, block.reject("is not a private key: remove it")
		}
	}
	if b == nil {
		return nil, errors.New("has no private key in PEM")
	}
	legacy := x509.IsEncryptedPEMBlock(b) //nolint:staticcheck // keys of this kind are still around
	switch {
	case !legacy && b.Type != "ENCRYPTED PRIVATE KEY":
		return pem.EncodeToMemory(b), nil
	case passphrase == "":
		return nil, errors.New("the key is encrypted: set Passphrase")
	case legacy:
		b.Bytes, err = x509.DecryptPEMBlock(b, []byte(passphrase)) //nolint:staticcheck // as above
		b.Headers = nil
		if err == nil && !isKey(b.Bytes) {
			err = x509.IncorrectPasswordError // the padding is right with one wrong passphrase in 256
		}
	default:
		b.Type = "PRIVATE KEY"
		b.Bytes, err = pkcs8Bytes(b.Bytes, passphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("the key cannot be decrypted with Passphrase: %w", err)
	}
	return pem.EncodeToMemory(b), nil
}

func isKey(der []byte) bool {
	_, pkcs1 := x509.ParsePKCS1PrivateKey(der)
	_, sec1 := x509.ParseECPrivateKey(der)
	_, pkcs8 := x509.ParsePKCS8PrivateKey(der)
	return pkcs1 == nil || sec1 == nil || pkcs8 == nil
}

func pkcs8Bytes(encrypted []byte, passphrase string) (der []byte, err error) {
	defer func() {
		if problem := recover(); problem != nil { // youmark/pkcs8 does not check what it gives to crypto/cipher, which panics
			der, err = nil, fmt.Errorf("malformed: %v", problem)
		}
	}()
	key, err := pkcs8.ParsePKCS8PrivateKey(encrypted, []byte(passphrase))
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
}
