// Package schemas holds the contracts that both halves share and that outlive
// a process: positions, cuts and accounts. Its sub-packages hold project
// definitions (project), the view compiler (view), envelopes, decoding and the
// sequencer (event), and the gRPC protos (duetv1).
//
// Nothing here does I/O of its own, reads a clock or draws a random number: the
// same input always gives the same bytes.
package schemas

import (
	"fmt"
	"strconv"
	"strings"
)

// Position is the place of a log message in its lane, as one ordered number:
//
//	 63      48 47                                   0
//	+----------+--------------------------------------+
//	| ordinal  | sequence                             |
//	+----------+--------------------------------------+
//	 of the incarnation     of the message in JetStream
//
// An event's full position is (lane, Position, record, part). The record is the
// event's index in its envelope. There is one lane today, and the part is 0.
// Position 0 is before every message.
type Position int64

// sequenceBits allows 281 trillion messages in an incarnation and 32,767
// incarnations in a lane.
const sequenceBits = 48

// NewPosition returns the position of an incarnation's ordinal (from 1) and a
// sequence (from 1).
func NewPosition(ordinal uint32, sequence uint64) Position {
	return Position(int64(ordinal)<<sequenceBits | int64(sequence))
}

// Ordinal returns the incarnation's ordinal.
func (p Position) Ordinal() uint32 { return uint32(p >> sequenceBits) }

// Sequence returns the message's sequence within its incarnation.
func (p Position) Sequence() uint64 { return uint64(p) & (1<<sequenceBits - 1) }

// String returns ordinal:sequence, such as "1:20473".
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Ordinal(), p.Sequence()) }

// MarshalText returns ordinal:sequence, the form that positions have in files.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText parses ordinal:sequence.
func (p *Position) UnmarshalText(b []byte) error {
	ordinal, sequence, ok := strings.Cut(string(b), ":")
	o, oerr := strconv.ParseUint(ordinal, 10, 15)
	s, serr := strconv.ParseUint(sequence, 10, sequenceBits)
	if !ok || oerr != nil || serr != nil {
		return fmt.Errorf("position %q: want ordinal:sequence", b)
	}
	*p = NewPosition(uint32(o), s)
	return nil
}

// Incarnation identifies a log between its creation and its loss. Sequences are
// comparable only within one incarnation.
type Incarnation struct {
	Ordinal uint32 `json:"ordinal"` // from 1, in order of creation
	ID      string `json:"id"`      // drawn at random when the log was created
	Created string `json:"created"` // the log's creation time, RFC 3339
}

// LanePosition is a position together with its lane and incarnation.
type LanePosition struct {
	Lane        uint16 `json:"lane"`
	Incarnation string `json:"incarnation"` // Incarnation.ID
	Ordinal     uint32 `json:"ordinal"`
	Sequence    uint64 `json:"sequence"`
}

// Cut is a list of positions, one for each lane, ordered by lane. Everything at or
// before it belongs to the batch half, everything after it to the live half (H2).
// Formats hold the list; there is one lane today.
type Cut []LanePosition

// NewCut returns the cut at a position of lane 0.
func NewCut(inc Incarnation, at Position) Cut {
	return Cut{{Lane: 0, Incarnation: inc.ID, Ordinal: at.Ordinal(), Sequence: at.Sequence()}}
}

// Position returns the position in lane 0; an empty cut returns 0, which is before everything.
func (c Cut) Position() Position {
	if len(c) == 0 {
		return 0
	}
	return NewPosition(c[0].Ordinal, c[0].Sequence)
}

// String returns one lane:ordinal:sequence for each lane, joined by commas.
func (c Cut) String() string {
	parts := make([]string, len(c))
	for i, p := range c {
		parts[i] = fmt.Sprintf("%d:%d:%d", p.Lane, p.Ordinal, p.Sequence)
	}
	return strings.Join(parts, ",")
}

// Account counts events by verdict. Received = Accepted + Duplicate + Rejected.
type Account struct {
	Received  int64 `json:"received"`
	Accepted  int64 `json:"accepted"`
	Duplicate int64 `json:"duplicate"`
	Rejected  int64 `json:"rejected"`
}

// Add adds b to a.
func (a *Account) Add(b Account) {
	a.Received += b.Received
	a.Accepted += b.Accepted
	a.Duplicate += b.Duplicate
	a.Rejected += b.Rejected
}

// Balanced reports whether the account adds up.
func (a Account) Balanced() bool { return a.Received == a.Accepted+a.Duplicate+a.Rejected }

// Names of the columns that Duet adds to every event. In memory an event has ColAt
// and ColRecord; an archive file has the position's parts as separate columns.
const (
	ColAt          = "_duet_at"          // BIGINT, a [Position]
	ColRecord      = "_duet_record"      // INTEGER, index in the envelope
	ColExtra       = "_duet_extra"       // VARCHAR, undeclared members as sent, a JSON object; NULL if none
	ColLane        = "_duet_lane"        // USMALLINT, archive only
	ColIncarnation = "_duet_incarnation" // UINTEGER, archive only: the ordinal
	ColSequence    = "_duet_sequence"    // BIGINT, archive only
	ColPart        = "_duet_part"        // INTEGER, archive only: 0 until one record can hold several events
)
