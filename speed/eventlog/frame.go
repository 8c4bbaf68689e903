package eventlog

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/zeebo/xxh3"
)

const (
	frameMagic = "DUL1"
	// Offsets within a message; the package comment draws it.
	sumAt      = len(frameMagic)
	sequenceAt = sumAt + len(sum{})
	timeAt     = sequenceAt + 8
	subjectAt  = timeAt + 8 + 1
)

// sum is a message's checksum. It covers the message's sequence and its log (see
// the package comment).
type sum [16]byte

func (s sum) String() string { return hex.EncodeToString(s[:]) }

// frame appends the beginning of a message to dst. The caller appends the body and
// calls seal.
func frame(dst []byte, subject string) []byte {
	dst = append(dst, frameMagic...)
	dst = append(dst, make([]byte, subjectAt-1-sumAt)...)
	dst = append(dst, byte(len(subject)))
	return append(dst, subject...)
}

// bodySize returns the size of a framed message's body.
func bodySize(message []byte) int { return len(message) - subjectAt - int(message[subjectAt-1]) }

func messageSum(message []byte, incarnation string) sum {
	return xxh3.Hash128Seed(message[sequenceAt:], xxh3.HashString(incarnation)).Bytes()
}

// seal fills in the sequence, time and checksum of a framed message.
func seal(message []byte, incarnation string, sequence uint64, now time.Time) sum {
	binary.LittleEndian.PutUint64(message[sequenceAt:], sequence)
	binary.LittleEndian.PutUint64(message[timeAt:], uint64(now.UnixNano()))
	s := messageSum(message, incarnation)
	copy(message[sumAt:], s[:])
	return s
}

// sealed is the content of a stored message; body aliases it.
type sealed struct {
	sequence uint64
	time     time.Time
	subject  string
	body     []byte
	sum      sum
}

// unseal parses a stored message. It fails if the message is not what was stored.
func unseal(message []byte, incarnation string) (m sealed, err error) {
	if len(message) < subjectAt {
		return m, fmt.Errorf("it has only %d bytes", len(message))
	}
	if got := string(message[:sumAt]); got != frameMagic {
		return m, fmt.Errorf("it begins with %q, not %q", got, frameMagic)
	}
	copy(m.sum[:], message[sumAt:])
	if got := messageSum(message, incarnation); got != m.sum {
		return m, fmt.Errorf("its checksum is %s, expected %s", got, m.sum)
	}
	body := subjectAt + int(message[subjectAt-1])
	if body > len(message) {
		return m, fmt.Errorf("its subject is longer than the message")
	}
	m.sequence = binary.LittleEndian.Uint64(message[sequenceAt:])
	m.time = time.Unix(0, int64(binary.LittleEndian.Uint64(message[timeAt:]))).UTC()
	m.subject, m.body = string(message[subjectAt:body]), message[body:]
	return m, nil
}
