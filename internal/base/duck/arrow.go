//go:build duckdb_arrow

package duck

import (
	"context"
	"database/sql/driver"
	"fmt"
	"reflect"

	"github.com/apache/arrow-go/v18/arrow"
	duckdb "github.com/duckdb/duckdb-go/v2"
	"github.com/duckdb/duckdb-go/v2/arrowmapping"
	"github.com/duckdb/duckdb-go/v2/mapping"
)

// vectorRows is the number of rows in a DuckDB chunk (its vector size).
const vectorRows = 2048

// LoadArrow appends rec's rows to table, in the connection's open transaction. The
// table must have rec's columns, in order and type.
//
// LoadArrow converts slices of rec to DuckDB chunks and passes them to an appender,
// without SQL or a registered view. It does not use DuckDB's Arrow scan: a scan that
// projects or filters silently returns the wrong columns (duckdb#17012), and
// registering one writes to the catalog, after which every prepared statement binds
// again. Cancelling ctx has no effect once the load has begun.
func (c *Conn) LoadArrow(ctx context.Context, table string, rec arrow.RecordBatch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.Raw(func(dc any) error {
		conn, err := handle(dc)
		if err != nil {
			return fmt.Errorf("duckdb: load %s: %w", table, err)
		}
		if err := load(conn, table, rec); err != nil {
			return fmt.Errorf("duckdb: load %s: %w", table, err)
		}
		return nil
	})
}

// handle returns the C connection inside the driver's connection. The driver has no
// accessor for it.
func handle(dc any) (mapping.Connection, error) {
	c, ok := dc.(*duckdb.Conn)
	if !ok {
		return mapping.Connection{}, fmt.Errorf("not a DuckDB connection: %T", dc)
	}
	f := reflect.ValueOf(c).Elem().FieldByName("conn")
	if !f.IsValid() || f.Type() != reflect.TypeFor[mapping.Connection]() {
		return mapping.Connection{}, fmt.Errorf("the DuckDB driver's Conn has no field conn; this version of the driver is not supported")
	}
	return mapping.Connection{Ptr: f.FieldByName("Ptr").UnsafePointer()}, nil
}

func load(conn mapping.Connection, table string, rec arrow.RecordBatch) error {
	converted, ed := arrowmapping.SchemaFromArrow(conn, rec.Schema())
	if err := dataError(ed); err != nil {
		return err
	}
	defer arrowmapping.DestroyArrowConvertedSchema(&converted)
	var a mapping.Appender
	if mapping.AppenderCreateExt(conn, "", "", table, &a) == mapping.StateError {
		err := appenderError(a)
		mapping.AppenderDestroy(&a)
		return err
	}
	defer mapping.AppenderDestroy(&a)
	if n := mapping.AppenderColumnCount(a); int64(n) != rec.NumCols() {
		return fmt.Errorf("the table has %d columns, but the batch has %d", n, rec.NumCols())
	}
	for from := int64(0); from < rec.NumRows(); from += vectorRows {
		if err := loadSlice(conn, a, converted, rec, from); err != nil {
			return err
		}
	}
	if mapping.AppenderFlush(a) == mapping.StateError {
		return appenderError(a)
	}
	return nil
}

func loadSlice(conn mapping.Connection, a mapping.Appender, converted arrowmapping.ArrowConvertedSchema, rec arrow.RecordBatch, from int64) error {
	slice := rec.NewSlice(from, min(from+vectorRows, rec.NumRows()))
	defer slice.Release()
	chunk, ed := arrowmapping.DataChunkFromArrow(conn, slice, converted)
	if err := dataError(ed); err != nil {
		return err
	}
	defer mapping.DestroyDataChunk(&chunk)
	if mapping.AppendDataChunk(a, chunk) == mapping.StateError {
		return appenderError(a)
	}
	return nil
}

// appenderError returns the appender's last error. It is never nil.
func appenderError(a mapping.Appender) error {
	if err := dataError(mapping.AppenderErrorData(a)); err != nil {
		return err
	}
	return fmt.Errorf("the appender failed and gave no reason")
}

// dataError frees ed and returns its error as a *duckdb.Error, or nil.
func dataError(ed mapping.ErrorData) error {
	defer mapping.DestroyErrorData(&ed)
	if !mapping.ErrorDataHasError(ed) {
		return nil
	}
	return &duckdb.Error{Type: duckdb.ErrorType(mapping.ErrorDataErrorType(ed)), Msg: mapping.ErrorDataMessage(ed)}
}

// QueryArrow runs query and calls f with each batch of its result. It releases the
// batch when f returns.
func (c *Conn) QueryArrow(ctx context.Context, query string, f func(arrow.RecordBatch) error) error {
	return c.arrow(func(a *duckdb.Arrow) error {
		r, err := a.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer r.Release()
		for r.Next() {
			if err := f(r.RecordBatch()); err != nil {
				return err
			}
		}
		return r.Err()
	})
}

// arrow calls f with the connection's Arrow interface.
func (c *Conn) arrow(f func(*duckdb.Arrow) error) error {
	return c.Raw(func(dc any) error {
		a, err := duckdb.NewArrowFromConn(dc.(driver.Conn))
		if err != nil {
			return fmt.Errorf("duckdb: arrow: %w", err)
		}
		return f(a)
	})
}
