//go:build duckdb_arrow

package duck

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	duckdb "github.com/duckdb/duckdb-go/v2"
)

// loadView is the name under which a batch is registered while it is loaded.
const loadView = "_duet_load"

// LoadArrow appends rec's rows to table, whose columns must be rec's, in
// order. It takes part in the connection's open transaction.
//
// It is the only use of DuckDB's Arrow scan: a scan that projects or filters
// silently returns the wrong columns (duckdb#17012), and a second scan of one
// registration returns nothing. So: all columns, no condition, once.
func (c *Conn) LoadArrow(ctx context.Context, table string, rec arrow.RecordBatch) error {
	return c.arrow(func(a *duckdb.Arrow) error {
		reader, err := array.NewRecordReader(rec.Schema(), []arrow.RecordBatch{rec})
		if err != nil {
			return fmt.Errorf("duckdb: load %s: %w", table, err)
		}
		defer reader.Release()
		release, err := a.RegisterView(reader, loadView)
		if err != nil {
			return fmt.Errorf("duckdb: load %s: %w", table, err)
		}
		defer release()
		rows, err := a.QueryContext(ctx, "INSERT INTO "+Ident(table)+" SELECT * FROM "+loadView)
		if err != nil {
			return fmt.Errorf("duckdb: load %s: %w", table, err)
		}
		rows.Release()
		return nil
	})
}

// QueryArrow runs query and hands each batch of its result to f. A batch is
// released when f returns.
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

// arrow runs f with the connection's Arrow interface.
func (c *Conn) arrow(f func(*duckdb.Arrow) error) error {
	return c.Raw(func(dc any) error {
		a, err := duckdb.NewArrowFromConn(dc.(driver.Conn))
		if err != nil {
			return fmt.Errorf("duckdb: arrow: %w", err)
		}
		return f(a)
	})
}
