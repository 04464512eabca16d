package fastcgi

import (
	"errors"
	"io"
	"os"
)

// createTemp creates a temporary file that is deleted when its descriptor is closed. Where
// the system supports unnamed files, this holds even if the process is killed.
func createTemp() (*os.File, error) {
	if f, err := openUnnamed(os.TempDir()); err == nil {
		return f, nil
	}
	f, err := os.CreateTemp("", "fastcgi-")
	if err == nil {
		_ = os.Remove(f.Name())
	}
	return f, err
}

// copyToFile copies a body of unknown length to a file and seeks to the file's start.
func copyToFile(f *os.File, body io.Reader, maxLen int64) (length int64, err error) {
	length, err = io.Copy(f, io.LimitReader(body, maxLen+1))
	var bodyErr *BodyError
	switch {
	case errors.As(err, &bodyErr):
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
