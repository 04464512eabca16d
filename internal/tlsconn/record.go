package tlsconn

// A recordTracker follows a stream to know where its records end (RFC 8446, 5.1).
type recordTracker struct {
	header [5]byte
	have   int // bytes of the header
	left   int // bytes of the record after it
}

func (r *recordTracker) follow(p []byte) {
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			r.left -= n
			p = p[n:]
			continue
		}
		n := copy(r.header[r.have:], p)
		p = p[n:]
		if r.have += n; r.have == len(r.header) {
			r.have, r.left = 0, int(r.header[3])<<8|int(r.header[4])
		}
	}
}

// inAlert reports whether the last record that has begun is an alert.
func (r *recordTracker) inAlert() bool {
	const alert = 21
	return r.header[0] == alert
}

// inRecord reports whether a record has begun and not ended.
func (r *recordTracker) inRecord() bool { return r.have > 0 || r.left > 0 }
