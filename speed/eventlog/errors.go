package eventlog

import (
	"errors"
	"fmt"

	"duet/schemas"
)

// Kinds of failure, for errors.Is.
var (
	// ErrFull: events have reached their share of the byte limit (see [FullError]).
	ErrFull = errors.New("the log is full")
	// ErrTooLarge: one message is larger than the log takes.
	ErrTooLarge = errors.New("too large for one log message")
	// ErrClosed: the log, reader or door was closed.
	ErrClosed = errors.New("the log is closed")
	// ErrUnavailable: the log cannot be written now; it repairs itself when the
	// cause (a full disk, say) is gone. Nothing of the request was stored.
	ErrUnavailable = errors.New("the log cannot be written now")
	// ErrUnknown: a publish was given up before its outcome was known (see
	// [UnknownError]).
	ErrUnknown = errors.New("outcome unknown")
	// ErrBusy: the door's queue stayed full until the caller's context ended.
	// Nothing of the request was taken.
	ErrBusy = errors.New("the ingest queue is full")
	// ErrEarlier: an earlier request of the same producer failed, so this one,
	// which would have left a hole in its numbers, was not stored.
	ErrEarlier = errors.New("an earlier request of this producer was not stored")

	// ErrMissing: files of the log are gone.
	ErrMissing = errors.New("the log is missing")
	// ErrRecreated: the stream is not the one that the incarnation file names.
	ErrRecreated = errors.New("the log was recreated")
	// ErrBehind: the log ends before a position that it has already held.
	ErrBehind = errors.New("the log went backwards")
	// ErrDiffers: a message is not the one that was there before.
	ErrDiffers = errors.New("the log holds another history")
	// ErrDamaged: messages inside the log are gone or unreadable.
	ErrDamaged = errors.New("the log is damaged")

	// errAborted: a publish sent behind one that failed; certainly not stored.
	errAborted = errors.New("not stored: an earlier publish failed")
)

// A RefusedError says why a log is not opened, or no longer used: it is not the
// log that it should be (H6). It unwraps to ErrMissing, ErrRecreated,
// ErrBehind, ErrDiffers or ErrDamaged.
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

// A GapError names messages that the log should hold and does not (H6), both
// ends included. It unwraps to ErrDamaged.
type GapError struct {
	From, Through schemas.Position
	Trimmed       bool // they lie before the log's first message
}

func (e *GapError) Error() string {
	where := "are missing from the log"
	if e.Trimmed {
		where = "are no longer in the log"
	}
	return fmt.Sprintf("messages %s to %s %s: nothing after them can be counted. Restore the data folder from a copy; without one, start an empty folder (--data) and keep this one: its archive is plain Parquet", e.From, e.Through, where)
}

func (e *GapError) Unwrap() error { return ErrDamaged }

// A CorruptError names a message whose content is not what was stored (H6). It
// unwraps to ErrDamaged.
type CorruptError struct {
	At     schemas.Position
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("message %s of the log is damaged: %s. Restore the data folder from a copy; without one, start an empty folder (--data) and keep this one: its archive is plain Parquet", e.At, e.Reason)
}

func (e *CorruptError) Unwrap() error { return ErrDamaged }

// A FullError is a publish that the byte limit forbids. Nothing was stored; it
// succeeds again when the batch half has archived and the log was trimmed. It
// unwraps to ErrFull.
type FullError struct {
	Used, Limit int64 // bytes in the store, and the whole limit
	Control     bool  // even the share of control records is used up
}

func (e *FullError) Error() string {
	if e.Control {
		return fmt.Sprintf("the log is full, control records included: %d of %d bytes. Raise limits.log in duet.yaml", e.Used, e.Limit)
	}
	return fmt.Sprintf("the log is full: %d of %d bytes, and the last %d%% are for control records. It empties when batch runs succeed: see duet status; or raise limits.log in duet.yaml", e.Used, e.Limit, 100-refusePercent)
}

func (e *FullError) Unwrap() error { return ErrFull }

// An UnknownError is a publish whose caller stopped waiting: the message is
// either at that position or nowhere. [Log.Holds] tells which. It unwraps to
// ErrUnknown and to the cause.
type UnknownError struct {
	At    schemas.Position // 0 if the request's position is not known
	Cause error
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("gave up waiting for the log at %s (%v): the message may or may not be stored. Send it again with the same producer and number", e.At, e.Cause)
}

func (e *UnknownError) Unwrap() []error { return []error{ErrUnknown, e.Cause} }

// An OrderError is a request of a producer whose numbers leave a hole. Nothing
// was stored.
type OrderError struct {
	Producer string
	Number   uint64 // the request's first number
	Expected uint64 // what the next request must begin with, at most
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("producer %q sent number %d, but the next one is %d: send the events from %d on", e.Producer, e.Number, e.Expected, e.Expected)
}

// A RequestError is a request that breaks the door's rules. Nothing was stored.
type RequestError struct {
	Field  string // the request's field: "stream", "records[3]", "producer", ...
	Reason string
}

func (e *RequestError) Error() string { return e.Field + ": " + e.Reason }

func unavailable(cause error) error {
	return fmt.Errorf("%w (tried again each second): %w", ErrUnavailable, cause)
}
