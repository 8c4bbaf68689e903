package eventlog

import (
	"encoding/hex"
	"fmt"

	"github.com/zeebo/xxh3"
)

const (
	frameMagic = "DUL1"
	frameSize  = len(frameMagic) + len(sum{})
)

// sum is a message's checksum, bound to its place (see the package comment).
type sum [16]byte

func (s sum) String() string { return hex.EncodeToString(s[:]) }

// messageSum is the sum of a body at a place.
func messageSum(incarnation string, sequence uint64, subject string, body []byte) sum {
	seed := xxh3.HashStringSeed(subject, xxh3.HashStringSeed(incarnation, sequence))
	return xxh3.Hash128Seed(body, seed).Bytes()
}

// seal fills in the frame of a message whose body begins at frameSize.
func seal(message []byte, incarnation string, sequence uint64, subject string) sum {
	s := messageSum(incarnation, sequence, subject, message[frameSize:])
	copy(message, frameMagic)
	copy(message[len(frameMagic):], s[:])
	return s
}

// unseal returns the body and the sum of a message read at a place, or why it
// cannot be the one that was stored there. The body aliases the message.
func unseal(message []byte, incarnation string, sequence uint64, subject string) (body []byte, s sum, err error) {
	if len(message) < frameSize {
		return nil, s, fmt.Errorf("%d bytes are too short for a message", len(message))
	}
	if string(message[:len(frameMagic)]) != frameMagic {
		return nil, s, fmt.Errorf("it begins with %q, not %q", message[:len(frameMagic)], frameMagic)
	}
	copy(s[:], message[len(frameMagic):])
	body = message[frameSize:]
	if got := messageSum(incarnation, sequence, subject, body); got != s {
		return nil, s, fmt.Errorf("its checksum is %s, but %s was stored", got, s)
	}
	return body, s, nil
}
