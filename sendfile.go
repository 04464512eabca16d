package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
)

// SendFile sends length bytes of a regular file, from offset on. Length 0 means up to the end
// of the file. A count below that comes with an error. Options.SendTimeout and the write
// deadline bound the call. SendFile neither uses nor moves the offset of f.
//
// On a plain stream the kernel sends the file from its cache (sendfile(2)), without a copy in
// the process. Over TLS, SendFile reads the file and encrypts it as Send does. On a datagram
// client it fails with unix.EOPNOTSUPP.
//
// A range outside of the file, an empty range and a file that is not regular are a *FileError,
// and nothing is sent. If the file becomes shorter during the call, the error is a *FileError
// too (io.ErrUnexpectedEOF), with the count of what was sent.
//
// If the peer has closed the connection, sendfile(2) raises SIGPIPE. Go programs ignore that
// signal unless they use os/signal to receive it.
func (c *Client) SendFile(f *os.File, offset, length int64) (int64, error) {
	if err := c.beginSend(0); err != nil {
		return 0, c.sendResult(opSendFile, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.sendFile(f, offset, length)
	return n, c.sendResult(opSendFile, nil, int(min(n, 1)), err)
}

func (c *Client) sendFile(f *os.File, offset, length int64) (int64, error) {
	if !c.typ.isStream() {
		return 0, os.NewSyscallError("sendfile", unix.EOPNOTSUPP)
	}
	length, err := lengthIn(f, offset, length)
	if err != nil {
		return 0, err
	}
	n, err := c.sendRange(f, offset, length, c.limits().send)
	return n, fileErr(f, offset, length, err)
}

// lengthIn returns the length of a range of a file. Its error is a *FileError.
func lengthIn(f *os.File, offset, length int64) (int64, error) {
	if f == nil {
		return 0, &FileError{Offset: offset, Length: length, Err: fs.ErrInvalid}
	}
	size, err := sizeOf(f)
	if err == nil {
		length, err = rangeLength(size, offset, length)
	}
	if err != nil {
		return 0, &FileError{Path: f.Name(), Offset: offset, Length: length, Size: size, Err: err}
	}
	return length, nil
}

// fileErr makes a *FileError of the error of a range that has become shorter.
func fileErr(f *os.File, offset, length int64, err error) error {
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	size, _ := sizeOf(f)
	return &FileError{Path: f.Name(), Offset: offset, Length: length, Size: size, Err: err}
}

// fileIn returns the file that r is, if it is one. A type that embeds a file may have a Read of
// its own, which decrypts or counts: it is no file, whatever other methods it has.
//
// io.Copy of an *os.File calls File.WriteTo. If that has no better way, it calls io.Copy again
// with the file in a struct of package os that hides WriteTo. fileIn looks for that type by
// its name: a type that embeds it has another name, and the path "os" belongs to the standard
// library. If a later Go renames the type, such a file is read as any other reader is.
func fileIn(r io.Reader) (*os.File, bool) {
	if f, ok := r.(*os.File); ok {
		return f, f != nil
	}
	t := reflect.TypeOf(r)
	if t == nil || t.PkgPath() != "os" || t.Name() != "fileWithoutWriteTo" {
		return nil, false
	}
	f, ok := reflect.TypeAssert[*os.File](reflect.ValueOf(r).FieldByName("File"))
	return f, ok && f != nil
}

// sizeOf returns the size of a regular file, and fails for any other.
func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return 0, err
	case info.IsDir():
		return 0, unix.EISDIR
	case !info.Mode().IsRegular():
		return 0, errNotRegular
	}
	return info.Size(), nil
}

var (
	errNotRegular = fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	errEmptyRange = fmt.Errorf("the range is empty: %w", fs.ErrInvalid)
	errOutside    = fmt.Errorf("the range is outside of the file: %w", fs.ErrInvalid)
)

// rangeLength returns the length of a range of a file.
func rangeLength(size, offset, length int64) (int64, error) {
	switch {
	case offset < 0 || length < 0 || offset > size || length > size-offset:
		return length, errOutside
	case offset == size:
		return length, errEmptyRange
	case length == 0:
		return size - offset, nil
	}
	return length, nil
}

// ReadFrom implements io.ReaderFrom, which io.Copy uses: it sends what r returns up to io.EOF.
// A regular file, also in an io.LimitedReader, is sent as by SendFile, from its offset on, and
// the offset moves. Any other reader is read by its own Read, also one that embeds a file.
// Only the write deadline limits it, as with Write.
func (c *Client) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.readFromFile(r)
	if err != nil {
		return n, err
	}
	// For other readers, and for a file that is longer than its size says. r's WriteTo is
	// hidden: a reader that embeds a file has the file's, which bypasses the reader's Read.
	m, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{r})
	return n + m, err
}

func (c *Client) readFromFile(r io.Reader) (int64, error) {
	limited, _ := r.(*io.LimitedReader)
	f, ok := fileIn(r)
	if limited != nil {
		f, ok = limited.R.(*os.File)
	}
	if !ok || !c.typ.isStream() || c.hasTLS() {
		return 0, nil // sendfile(2) cannot be used
	}
	size, err := sizeOf(f)
	if err != nil {
		return 0, nil //nolint:nilerror // it is read as any other reader
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	length := size - offset
	if limited != nil {
		length = min(length, limited.N)
	}
	if err != nil || length <= 0 {
		return 0, nil //nolint:nilerror // as above
	}
	if err := c.beginSend(0); err != nil {
		return 0, c.sendResult(opReadFrom, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.sendRange(f, offset, length, -1)
	if limited != nil {
		limited.N -= n
	}
	if _, seekErr := f.Seek(offset+n, io.SeekStart); err == nil {
		err = seekErr
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // the file has become shorter: a copy ends at its end
	}
	return n, c.sendResult(opReadFrom, nil, int(min(n, 1)), err)
}

// A FileError is an error of SendFile about the file. errors.Is finds fs.ErrInvalid for a
// range that cannot be sent and for a file that is not regular, unix.EISDIR for a directory,
// and io.ErrUnexpectedEOF for a file that became shorter during the call.
type FileError struct {
	Path           string
	Offset, Length int64 // the arguments; 0 for Length is replaced if the size is known
	Size           int64 // of the file, if known
	Err            error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s: %d bytes from offset %d, of %d: %v", e.Path, e.Length, e.Offset, e.Size, e.Err)
}

// Unwrap returns Err.
func (e *FileError) Unwrap() error { return e.Err }
