package dtls

import (
	"bytes"
	"testing"

	"github.com/blocksock/client"
	"github.com/stretchr/testify/require"
)

// records returns what pion gets of a datagram, before or after the end of the handshake.
func records(datagram []byte, secured bool) (all [][]byte, w *wire) {
	w = &wire{Client: new(client.Client), rest: datagram, secured: secured}
	for {
		record, err := w.next(nil) // it fails when there is no more
		if err != nil {
			return all, w
		}
		all = append(all, record)
	}
}

func FuzzRecords(f *testing.F) {
	record := func(kind, epoch byte, content string) string {
		return string([]byte{kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 1, 0, byte(len(content))}) + content
	}
	for _, datagram := range []string{
		"", "x", record(handshakeRecord, 0, "hello"), record(handshakeRecord, 0, "hello") + record(changeCipherSpec, 0, "\x01") + record(handshakeRecord, 1, "finished"),
		record(applicationData, 1, "data")[:15], record(alertRecord, 0, "\x02\x50"), record(alertRecord, 0, "\x02"),
		record(applicationData, 0, "x"), record(applicationData, 2, "x"), record(25, 1, "x"), record(applicationData, 1, ""),
		record(applicationData, 1, "early") + record(alertRecord, 1, "end") + record(handshakeRecord, 1, "finished"),
	} {
		f.Add([]byte(datagram))
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		for _, secured := range []bool{false, true} {
			all, w := records(datagram, secured)
			if !secured { // the rest comes after the handshake
				for _, record := range all {
					require.False(t, epoch(record) == 1 && record[0] == applicationData)
				}
				w.secure()
				for {
					record, err := w.next(nil)
					if err != nil {
						break
					}
					all = append(all, record)
					require.EqualValues(t, 1, epoch(record))
				}
			}
			rest, total := datagram, 0
			for _, record := range all {
				total += len(record)
				require.GreaterOrEqual(t, len(record), headerSize)
				require.LessOrEqual(t, len(record), recordSize(record))
				require.LessOrEqual(t, epoch(record), uint16(1))
				if secured {
					require.EqualValues(t, 1, epoch(record))
					at := bytes.Index(rest, record) // in order, and none twice
					require.GreaterOrEqual(t, at, 0)
					rest = rest[at+len(record):]
				}
			}
			require.LessOrEqual(t, total, len(datagram))
		}
	})
}
