package eventlog

import (
	"errors"
	"fmt"

	"duet/schemas"
)

// Kinds of errors, for errors.Is.
var (
	// ErrFull means that events have reached their share of the byte limit (see
	// [FullError]).
	ErrFull = errors.New("the log is full")
	// ErrTooLarge means that a message is larger than the log accepts.
	ErrTooLarge = errors.New("too large for one log message")
	// ErrClosed means that the log, reader or appender was closed.
	ErrClosed = errors.New("the log is closed")
	// ErrUnavailable means that the log cannot be written now, and that nothing of
	// the request was stored. The log repairs itself when the cause, such as a full
	// disk, is gone.
	ErrUnavailable = errors.New("the log cannot be written now")
	// ErrUnknown means that the caller stopped waiting before the outcome was known
	// (see [UnknownError]).
	ErrUnknown = errors.New("outcome unknown")
	// ErrBusy means that the request was still waiting for room, or queued, when
	// its context ended. Nothing of it was stored.
	ErrBusy = errors.New("the ingest queue is full")
	// ErrEarlier means that an earlier request of the same producer failed. This
	// one was not stored, because it would have left a hole in the numbers.
	ErrEarlier = errors.New("an earlier request of this producer was not stored")

	// ErrMissing means that files of the log are gone.
	ErrMissing = errors.New("the log is missing")
	// ErrRecreated means that the stream is not the one in the incarnation file.
	ErrRecreated = errors.New("the log was recreated")
	// ErrBehind means that the log ends before a position that it has held.
	ErrBehind = errors.New("the log went backwards")
	// ErrDiffers means that a message is not the one that was there before.
	ErrDiffers = errors.New("the log holds another history")
	// ErrDamaged means that messages of the log are gone or unreadable.
	ErrDamaged = errors.New("the log is damaged")

	// errAborted means that a publish followed one that failed: it is not stored.
	errAborted = errors.New("not stored: an earlier publish failed")
)

// A RefusedError is returned for a log that is not the one it should be (H6). It
// unwraps to ErrMissing, ErrRecreated, ErrBehind, ErrDiffers or ErrDamaged.
type RefusedError struct {
	Kind     error
	Dir      string // the log's folder
	Found    string
	Expected string
	Remedy   string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("log %s: %v: found %s, expected %s. %s", e.Dir, e.Kind, e.Found, e.Expected, e.Remedy)
}

func (e *RefusedError) Unwrap() error { return e.Kind }

// A GapError names messages, From and Through included, that the log should hold
// and does not (H6). It unwraps to ErrDamaged.
type GapError struct {
	From, Through schemas.Position
	Trimmed       bool // the messages are before the log's first one
}

func (e *GapError) Error() string {
	where := "are missing from the log"
	if e.Trimmed {
		where = "are no longer in the log"
	}
	return fmt.Sprintf("messages %s to %s %s: nothing after them can be counted. %s", e.From, e.Through, where, remedyCopy)
}

func (e *GapError) Unwrap() error { return ErrDamaged }

// A CorruptError names a message that is not what was stored (H6). It unwraps to
// ErrDamaged.
type CorruptError struct {
	At     schemas.Position
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("message %s of the log is damaged: %s. %s", e.At, e.Reason, remedyCopy)
}

func (e *CorruptError) Unwrap() error { return ErrDamaged }

// A FullError is returned for a message that exceeds the byte limit. It is not
// stored. Publishing succeeds again when events were archived and the log was
// trimmed. It unwraps to ErrFull.
type FullError struct {
	Used, Limit int64 // bytes; Limit is Config.MaxBytes
	Control     bool  // the share of control records is used up too
}

func (e *FullError) Error() string {
	if e.Control {
		return fmt.Sprintf("the log is full, control records included: %d of %d bytes. Raise limits.log in duet.yaml", e.Used, e.Limit)
	}
	return fmt.Sprintf("the log is full: %d of %d bytes, and the last %d%% are reserved for control records. It empties when batch runs succeed: see duet status, or raise limits.log in duet.yaml", e.Used, e.Limit, 100-refusePercent)
}

func (e *FullError) Unwrap() error { return ErrFull }

// An UnknownError is returned to a caller that stopped waiting for a publish on
// its way: the message is stored, or will never be. It unwraps to ErrUnknown and
// to the cause.
type UnknownError struct {
	Cause error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("stopped waiting for the log (%v): the message may or may not be stored. Send it again with the same producer and number", e.Cause)
}

func (e *UnknownError) Unwrap() []error { return []error{ErrUnknown, e.Cause} }

// An OrderError is returned for a request that leaves a hole in its producer's
// numbers. Nothing was stored.
type OrderError struct {
	Producer string
	Number   uint64 // the request's first number
	Expected uint64 // the highest number that the next request may begin with
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("producer %q sent number %d, but its next number is %d: send the events from %d on", e.Producer, e.Number, e.Expected, e.Expected)
}

// A RequestError is returned for a request that breaks a limit or a rule. Nothing
// was stored.
type RequestError struct {
	Field  string // the request's field: "stream", "records[3]", "producer", ...
	Reason string
}

func (e *RequestError) Error() string { return e.Field + ": " + e.Reason }

func unavailable(cause error) error {
	return fmt.Errorf("%w (tried again each second): %w", ErrUnavailable, cause)
}
