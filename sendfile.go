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

// SendFile sends length bytes of a regular file from offset on; length 0 is up to
// its end. It returns how many bytes were sent, and without an error that is all of
// them. Options.SendTimeout and the write deadline bound the call. The file's own
// offset is neither used nor moved.
//
// On a plain stream the kernel sends from its cache, sendfile(2), and nothing passes
// through the process. Over TLS the file is read and sealed, as Send would. A
// datagram client gives unix.EOPNOTSUPP.
//
// A range that is not in the file, an empty one, and what is no regular file are a
// *FileError before anything is sent. So is, with the count of what was sent, a file
// that has become shorter meanwhile (io.ErrUnexpectedEOF).
//
// sendfile(2) raises SIGPIPE where the peer has gone, which Go programs ignore unless
// they ask for it with os/signal.
func (c *Client) SendFile(f *os.File, offset, length int64) (int64, error) {
	if err := c.beginSend(0); err != nil {
		return 0, c.sentSome(opSendFile, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.sendFile(f, offset, length)
	return n, c.sentSome(opSendFile, nil, int(min(n, 1)), err)
}

func (c *Client) sendFile(f *os.File, offset, length int64) (int64, error) {
	if !c.typ.isStream() {
		return 0, os.NewSyscallError("sendfile", unix.EOPNOTSUPP)
	}
	if f == nil {
		return 0, &FileError{Offset: offset, Length: length, Err: fs.ErrInvalid}
	}
	size, err := sizeOf(f)
	if err == nil {
		length, err = within(size, offset, length)
	}
	if err != nil {
		return 0, &FileError{Path: f.Name(), Offset: offset, Length: length, Size: size, Err: err}
	}
	n, err := c.stream.sendFile(f, offset, length, c.limits.send)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		size, _ = sizeOf(f)
		err = &FileError{Path: f.Name(), Offset: offset, Length: length, Size: size, Err: err}
	}
	return n, err
}

// fileIn gives the file that r is, if it is one. What has a file in it may have a Read of
// its own, which decrypts or counts: it is no file, whatever other methods it has.
//
// io.Copy of an *os.File calls its WriteTo, and that, where it knows no better way, calls
// io.Copy again with the file in a struct of package os that hides WriteTo. No other
// package can make one, as long as it is asked for the type itself: a type that embeds
// it has another name, and the path "os" is the standard library's. Should
// that rename it, such a file is read like any other reader.
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

// sizeOf refuses what is not a regular file.
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
	errEmptyRange = fmt.Errorf("there is nothing to send: %w", fs.ErrInvalid)
	errOutside    = fmt.Errorf("the range is not in the file: %w", fs.ErrInvalid)
)

// within gives the length of a range of a file.
func within(size, offset, length int64) (int64, error) {
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

// ReadFrom sends all that r has, as io.ReaderFrom has it: io.Copy to a client uses
// it. A regular file goes the way of SendFile, from its offset on, which moves; so
// does a part of one, in an io.LimitedReader. Any other reader, also one that has a
// file in it, is read by its own Read. Limits are those of Write: the write
// deadline alone.
func (c *Client) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.readFromFile(r)
	if err != nil {
		return n, err
	}
	// What is not a file, and what a file has more of than it said. A reader that embeds
	// one has its WriteTo too, which passes over the reader's Read.
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
		return 0, nil // nothing is gained
	}
	size, err := sizeOf(f)
	if err != nil {
		return 0, nil //nolint:nilerror // it is read as any other
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	length := size - offset
	if limited != nil {
		length = min(length, limited.N)
	}
	if err != nil || length <= 0 {
		return 0, nil //nolint:nilerror // likewise
	}
	if err := c.beginSend(0); err != nil {
		return 0, c.sentSome(opReadFrom, nil, 0, err)
	}
	defer c.lease.decref()
	n, err := c.stream.sendFile(f, offset, length, -1)
	if limited != nil {
		limited.N -= n
	}
	if _, seekErr := f.Seek(offset+n, io.SeekStart); err == nil {
		err = seekErr
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // it has become shorter: a copy is of what there is
	}
	return n, c.sentSome(opReadFrom, nil, int(min(n, 1)), err)
}

// A FileError is the error of SendFile where it is the file that is at fault.
// errors.Is finds fs.ErrInvalid for a range that cannot be sent and for what is no
// regular file, unix.EISDIR for a directory, and io.ErrUnexpectedEOF for a file that
// has become shorter while it was sent.
type FileError struct {
	Path           string
	Offset, Length int64 // as asked for; in the end, with the length filled in
	Size           int64 // of the file, where known
	Err            error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s: %d bytes from %d on, of %d: %v", e.Path, e.Length, e.Offset, e.Size, e.Err)
}

// Unwrap gives the cause.
func (e *FileError) Unwrap() error { return e.Err }
