// Package reason is the closed set of reasons for which the server refuses a
// call.
//
// A reason decides the gRPC code, and with it whether a client should retry.
// Packages under serving return an [Error]; package serving turns it into a
// status, in one place. A reason keeps its meaning for ever.
package reason

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
)

// Domain is the domain in every google.rpc.ErrorInfo of Duet.
const Domain = "duet"

// Reason is why a call failed, as google.rpc.ErrorInfo carries it.
type Reason string

// The reasons. A comment says what a client does about one where that is not
// obvious.
const (
	ViewUnknown           Reason = "VIEW_UNKNOWN"
	StreamUnknown         Reason = "STREAM_UNKNOWN"
	RunUnknown            Reason = "RUN_UNKNOWN"
	GenerationUnknown     Reason = "GENERATION_UNKNOWN" // never published, or no longer kept
	ReconciliationUnknown Reason = "RECONCILIATION_UNKNOWN"

	ArgumentInvalid  Reason = "ARGUMENT_INVALID"  // with a field violation for each fault
	ConditionInvalid Reason = "CONDITION_INVALID" // where, having or parameters; with field violations
	TokenInvalid     Reason = "TOKEN_INVALID"     // not a token of this log: drop it
	MethodUnknown    Reason = "METHOD_UNKNOWN"

	MessageTooLarge Reason = "MESSAGE_TOO_LARGE" // send less at once
	ResultTooLarge  Reason = "RESULT_TOO_LARGE"  // ask for less
	LogFull         Reason = "LOG_FULL"          // try again when a batch run has made room
	Busy            Reason = "BUSY"              // try again with back-off
	// TooManyConnections: close connections or share them.
	TooManyConnections Reason = "TOO_MANY_CONNECTIONS"
	MemoryFull         Reason = "MEMORY_FULL"

	CatchingUp     Reason = "CATCHING_UP"     // metadata: progress; try again
	ViewRebuilding Reason = "VIEW_REBUILDING" // try again
	Stopping       Reason = "STOPPING"        // try again
	StreamIdle     Reason = "STREAM_IDLE"     // open a new stream when there is something to send

	ViewSuspended      Reason = "VIEW_SUSPENDED" // correct the view's SQL
	DefinitionDiffers  Reason = "DEFINITION_DIFFERS"
	ProducerOutOfOrder Reason = "PRODUCER_OUT_OF_ORDER" // metadata: expected
	RunQueued          Reason = "RUN_QUEUED"            // one runs and one waits already
	LogRefused         Reason = "LOG_REFUSED"           // the log cannot be written; see the server's log

	Fenced        Reason = "FENCED"  // another runner was first
	Damaged       Reason = "DAMAGED" // a file is missing or differs; the message names it
	DeadlineOver  Reason = "DEADLINE_OVER"
	Cancelled     Reason = "CANCELLED"
	OriginRefused Reason = "ORIGIN_REFUSED" // a browser page of another site
	Internal      Reason = "INTERNAL"
)

var table = map[Reason]codes.Code{
	ViewUnknown:           codes.NotFound,
	StreamUnknown:         codes.NotFound,
	RunUnknown:            codes.NotFound,
	GenerationUnknown:     codes.NotFound,
	ReconciliationUnknown: codes.NotFound,
	ArgumentInvalid:       codes.InvalidArgument,
	ConditionInvalid:      codes.InvalidArgument,
	TokenInvalid:          codes.InvalidArgument,
	MethodUnknown:         codes.Unimplemented,
	MessageTooLarge:       codes.ResourceExhausted,
	ResultTooLarge:        codes.ResourceExhausted,
	LogFull:               codes.ResourceExhausted,
	Busy:                  codes.ResourceExhausted,
	MemoryFull:            codes.ResourceExhausted,
	CatchingUp:            codes.Unavailable,
	ViewRebuilding:        codes.Unavailable,
	Stopping:              codes.Unavailable,
	StreamIdle:            codes.Unavailable,
	TooManyConnections:    codes.Unavailable,
	ViewSuspended:         codes.FailedPrecondition,
	DefinitionDiffers:     codes.FailedPrecondition,
	ProducerOutOfOrder:    codes.FailedPrecondition,
	RunQueued:             codes.FailedPrecondition,
	LogRefused:            codes.Unavailable,
	Fenced:                codes.Aborted,
	Damaged:               codes.DataLoss,
	DeadlineOver:          codes.DeadlineExceeded,
	Cancelled:             codes.Canceled,
	OriginRefused:         codes.PermissionDenied,
	Internal:              codes.Internal,
}

// Code returns the gRPC code of r.
func (r Reason) Code() codes.Code {
	if c, ok := table[r]; ok {
		return c
	}
	return codes.Internal
}

// All returns every reason, sorted.
func All() []Reason { return slices.Sorted(maps.Keys(table)) }

// Violation is a fault in one field of a request.
type Violation struct {
	Field       string // as in the proto: "group_by"
	Description string // what is wrong and what to write
}

// Error is a refusal. Its message says what is wrong, where, and what to do.
type Error struct {
	Reason     Reason
	Message    string
	Violations []Violation
	Metadata   map[string]string // for programs: "expected": "42"
	Err        error             // the cause, for the log; it is never sent
}

// New returns an error with a formatted message.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}

// Field returns an error about one field of the request.
func Field(r Reason, field, format string, args ...any) *Error {
	msg := fmt.Sprintf(format, args...)
	return &Error{Reason: r, Message: field + ": " + msg, Violations: []Violation{{Field: field, Description: msg}}}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Because sets the cause and returns e.
func (e *Error) Because(err error) *Error {
	e.Err = err
	return e
}

// With adds metadata and returns e.
func (e *Error) With(key, value string) *Error {
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[key] = value
	return e
}
