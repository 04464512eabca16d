package fastcgi

import (
	"io"
	"os"
	"sync"
)

// lengthOf gives a request's body with its length. done is to be called when the body
// is not needed any more, once or more often.
func (cl *Client) lengthOf(r *Request) (body io.Reader, length int64, done func(), err error) {
	nothing := func() {}
	switch {
	case r.Body == nil:
		return nil, 0, nothing, nil
	case r.ContentLength >= 0:
		return r.Body, r.ContentLength, nothing, nil
	case cl.MaxSpool < 0:
		return nil, 0, nothing, ErrLengthRequired
	}
	most := cl.MaxSpool
	if most == 0 {
		most = DefaultMaxSpool
	}
	f, err := os.CreateTemp("", "fastcgi-body-")
	if err != nil {
		return nil, 0, nothing, err
	}
	_ = os.Remove(f.Name()) // it is gone with its descriptor, whatever happens
	done = sync.OnceFunc(func() { _ = f.Close() })
	length, err = io.Copy(f, io.LimitReader(r.Body, most+1))
	if err == nil && length > most {
		err = ErrBodyTooLong
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		done()
		return nil, 0, nothing, err
	}
	return f, length, done, nil
}
