package eventlog

import (
	"context"
	"errors"
	"time"

	"duet/schemas"
)

// Entry describes one message for `duet inspect log`.
type Entry struct {
	At      schemas.Position
	Subject string
	Time    time.Time
	Bytes   int    // size of Data
	Data    []byte // the envelope or the control record's body; valid during the call only
	// Problem is why the message, or the range up to Through, cannot be read. The
	// other fields are then empty.
	Problem error
	Through schemas.Position // At, unless Problem covers a range
}

// List calls f for each message of the log between two positions, both included.
// A damaged message is an Entry with a Problem, and List goes on behind it. List
// returns the first error of f.
func (l *Log) List(ctx context.Context, from, through schemas.Position, f func(Entry) error) error {
	from, through = max(from, l.First()), min(through, l.Last())
	for seq := from.Sequence(); l.at(seq) <= through && from.Ordinal() == l.inc.Ordinal; {
		batch, err := l.fetchFrom(ctx, seq)
		var gap *GapError
		var corrupt *CorruptError
		switch {
		case errors.As(err, &gap):
			err = f(Entry{At: gap.From, Through: gap.Through, Problem: err})
			seq = gap.Through.Sequence() + 1
		case errors.As(err, &corrupt):
			err = f(Entry{At: corrupt.At, Through: corrupt.At, Problem: err})
			seq = corrupt.At.Sequence() + 1
		}
		if err != nil {
			return err
		}
		for _, m := range batch {
			if m.At > through {
				return nil
			}
			subject := eventPrefix + m.Stream
			if m.Control != "" {
				subject = controlPrefx + m.Control
			}
			if err := f(Entry{At: m.At, Through: m.At, Subject: subject, Time: m.Time, Bytes: len(m.Data), Data: m.Data}); err != nil {
				return err
			}
			seq = m.At.Sequence() + 1
		}
	}
	return nil
}
