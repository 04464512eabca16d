package fastcgi

import (
	"errors"
	"io"
	"os"
)

// temporaryFile makes a file that is gone with its descriptor: also when this process
// is killed, where the system can make one without a name.
func temporaryFile() (*os.File, error) {
	if f, err := openUnnamed(os.TempDir()); err == nil {
		return f, nil
	}
	f, err := os.CreateTemp("", "fastcgi-")
	if err == nil {
		_ = os.Remove(f.Name())
	}
	return f, err
}

// spool copies a body of unknown length to a file and seeks to its beginning.
func copyToFile(f *os.File, body io.Reader, maxLen int64) (length int64, err error) {
	length, err = io.Copy(f, io.LimitReader(body, maxLen+1))
	var read *BodyError
	switch {
	case errors.As(err, &read):
		return 0, err
	case err == nil && length > maxLen:
		return 0, ErrBodyTooLong
	case err == nil:
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return 0, &TempFileError{err}
	}
	return length, nil
}
