package store

import (
	"errors"
	"fmt"

	duckdb "github.com/duckdb/duckdb-go/v2"

	"duet/batch/recompute"
	"duet/schemas"
)

// ErrClosed is returned by a store that is closed or closing.
var ErrClosed = errors.New("store: closed")

// UnknownViewError reports a view that the project does not have.
type UnknownViewError struct{ View string }

func (e *UnknownViewError) Error() string { return "there is no view " + e.View }

// SuspendedError reports a view that cannot be computed because of an event, or
// cannot be held because of its number of groups.
type SuspendedError struct{ Suspension recompute.Suspension }

func (e *SuspendedError) Error() string { return e.Suspension.String() }

// RebuildingError reports a view that the current generation does not hold
// under its present definition (H6: never a smaller number).
type RebuildingError struct {
	View       string
	Generation uint64
}

func (e *RebuildingError) Error() string {
	return fmt.Sprintf("view %s is being rebuilt: generation %d does not hold its present definition; wait for the next batch run, or start one: duet batch run", e.View, e.Generation)
}

// TailFullError refuses a batch because too many rows are not archived yet.
// Nothing was applied; the batch can be applied again when a block is released.
type TailFullError struct{ Rows, Bytes, RowLimit, ByteLimit int64 }

func (e *TailFullError) Error() string {
	return fmt.Sprintf("store: %d rows (%d bytes) are not archived yet, the limit is %d rows (%d bytes); the live half waits for the archive: duet status says whether archiving fails", e.Rows, e.Bytes, e.RowLimit, e.ByteLimit)
}

// Temporary returns true: blocks are released as they are archived.
func (e *TailFullError) Temporary() bool { return true }

// BoundaryError reports a position at which no segment ends.
type BoundaryError struct {
	What string // the operation that needs the boundary
	At   schemas.Position
}

func (e *BoundaryError) Error() string {
	return fmt.Sprintf("store: %s: no segment ends at %s; it was joined with a later one, or the live state was rebuilt since that cut; start the run again", e.What, e.At)
}

// ResourceError is a failure of the machine or the engine, not of a view or an
// event. Nothing was applied and nothing suspended. The same call may succeed
// later unless Fatal is set: then the database is unusable and the process must
// end; recovery loads everything again.
type ResourceError struct {
	Doing string
	Fatal bool
	Err   error
}

// Temporary reports whether the same call may succeed later.
func (e *ResourceError) Temporary() bool { return !e.Fatal }

func (e *ResourceError) Error() string { return "store: " + e.Doing + ": " + e.Err.Error() }

// Unwrap returns DuckDB's error.
func (e *ResourceError) Unwrap() error { return e.Err }

// binds reports whether a statement failed to bind: the view's definition is at
// fault, whatever the rows.
func binds(err error) bool {
	var de *duckdb.Error
	if !errors.As(err, &de) {
		return false
	}
	switch de.Type {
	case duckdb.ErrorTypeBinder, duckdb.ErrorTypeParser, duckdb.ErrorTypeSyntax,
		duckdb.ErrorTypeNotImplemented, duckdb.ErrorTypeParameterNotResolved:
		return true
	}
	return false
}

// resource wraps an error of DuckDB that no view and no event caused; nil stays
// nil.
func resource(doing string, err error) error {
	if err == nil {
		return nil
	}
	var de *duckdb.Error
	fatal := errors.As(err, &de) && (de.Type == duckdb.ErrorTypeFatal || de.Type == duckdb.ErrorTypeInternal)
	return &ResourceError{Doing: doing, Fatal: fatal, Err: err}
}
