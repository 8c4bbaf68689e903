package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	duckdb "github.com/duckdb/duckdb-go/v2"

	"duet/batch/recompute"
	"duet/internal/base/duck"
	"duet/schemas"
)

// remedyEvaluation says what to do about an expression that fails.
const remedyEvaluation = "edit the view (TRY_CAST, a wider CAST, or a WHERE that leaves such events out) and restart; it is then rebuilt from the archive"

// locate finds the event of a rolled back batch over which a view fails.
func (w *writer) locate(in *microBatch, ve *viewError) (*recompute.Suspension, error) {
	ctx := context.Background()
	def := w.m.layout.views[ve.view].def
	for _, r := range in.sets {
		if r.name != def.stream {
			continue
		}
		p := newProbe(w.s, w.conn, def)
		if err := p.create(ctx, w.s.sets[def.stream].columns); err != nil {
			return nil, err
		}
		defer p.drop(ctx)
		if err := w.conn.LoadArrow(ctx, p.rows, r.rec); err != nil {
			return nil, resource("load rows to look at", err)
		}
		return p.locate(ctx, in.through, ve.err)
	}
	return nil, fmt.Errorf("store: view %s failed without rows: %w", ve.view, ve.err)
}

// probe finds the row of a table over which a view fails. Its tables are
// ordinary ones, in autocommit, because an evaluation error ends a transaction.
type probe struct {
	conn                *duck.Conn
	def                 *definition
	rows, prefix, cells string
}

func newProbe(s *Store, conn *duck.Conn, def *definition) *probe {
	id := s.ids.Add(1)
	return &probe{conn, def, fmt.Sprintf("x_rows_%d", id), fmt.Sprintf("x_prefix_%d", id), fmt.Sprintf("x_cells_%d", id)}
}

func (p *probe) exec(ctx context.Context, q string) error {
	_, err := p.conn.ExecContext(ctx, q)
	return err
}

func (p *probe) create(ctx context.Context, columns string) error {
	return resource("look for the event", p.exec(ctx, "CREATE TABLE "+p.rows+" ("+columns+")"))
}

func (p *probe) drop(ctx context.Context) {
	for _, t := range []string{p.rows, p.prefix, p.cells} {
		// A table that cannot be dropped is named by no layout and ends with the process.
		_ = p.exec(ctx, "DROP TABLE IF EXISTS "+t)
	}
}

// locate bisects over prefixes of the rows: they fail from some row on, even if
// an aggregate fails only over several rows together. cause is the error seen so
// far; through is reported as the position if no single row is the cause.
func (p *probe) locate(ctx context.Context, through schemas.Position, cause error) (*recompute.Suspension, error) {
	sus := &recompute.Suspension{View: p.def.name, At: through, Record: -1, Message: oneLine(cause), Remedy: remedyEvaluation}
	if binds(cause) {
		return sus, nil
	}
	var n int
	if err := p.conn.QueryRowContext(ctx, "SELECT count(*) FROM "+p.rows).Scan(&n); err != nil {
		return nil, resource("look for the event", err)
	}
	lo, hi := 0, n+1 // the prefix of lo rows succeeds, that of hi rows fails
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		err := p.try(ctx, mid)
		switch {
		case err == nil:
			lo = mid
		case duck.Evaluates(err):
			hi, cause = mid, err
		default:
			return nil, resource("look for the event", err)
		}
	}
	found := hi <= n
	if !found {
		return sus, nil
	}
	sus.Message = oneLine(cause)
	return sus, p.describe(ctx, hi-1, sus)
}

// try folds the first n rows. They are copied first, because a filter might be
// evaluated after the expression that fails.
func (p *probe) try(ctx context.Context, n int) error {
	if err := p.exec(ctx, fmt.Sprintf("CREATE OR REPLACE TABLE %s AS SELECT * FROM %s WHERE rowid < %d", p.prefix, p.rows, n)); err != nil {
		return err
	}
	if err := p.exec(ctx, "CREATE OR REPLACE TABLE "+p.cells+" ("+p.def.cells+")"); err != nil {
		return err
	}
	return p.exec(ctx, "INSERT INTO "+p.cells+" "+p.def.partial(p.prefix))
}

// maxEvent limits the text of an event in a message, in bytes.
const maxEvent = 1000

// describe sets the row's position and values in sus.
func (p *probe) describe(ctx context.Context, row int, sus *recompute.Suspension) error {
	rows, err := p.conn.QueryContext(ctx, fmt.Sprintf("SELECT COLUMNS(*)::VARCHAR FROM %s WHERE rowid = %d", p.rows, row))
	if err != nil {
		return resource("describe the event", err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil || !rows.Next() {
		return resource("describe the event", fmt.Errorf("row %d: %w", row, rows.Err()))
	}
	vals, ptrs := make([]sql.NullString, len(names)), make([]any, len(names))
	for i := range vals {
		ptrs[i] = &vals[i]
	}
	if err := rows.Scan(ptrs...); err != nil {
		return resource("describe the event", err)
	}
	var b strings.Builder
	for i, name := range names {
		switch name {
		case schemas.ColAt:
			_, err = fmt.Sscan(vals[i].String, (*int64)(&sus.At))
		case schemas.ColRecord:
			_, err = fmt.Sscan(vals[i].String, &sus.Record)
		case schemas.ColExtra:
		default:
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			if vals[i].Valid {
				b.WriteString(name + "=" + vals[i].String)
			} else {
				b.WriteString(name + "=NULL")
			}
		}
		if err != nil {
			return resource("describe the event", err)
		}
	}
	sus.Event = b.String()
	if len(sus.Event) > maxEvent {
		sus.Event = strings.ToValidUTF8(sus.Event[:maxEvent], "") + "..."
	}
	return nil
}

// oneLine returns DuckDB's message without its excerpt of our statement and its
// advice about memory.
func oneLine(err error) string {
	text := err.Error()
	var de *duckdb.Error
	if errors.As(err, &de) {
		text = de.Msg
	}
	if duck.OutOfMemory(err) {
		text, _, _ = strings.Cut(text, "\n") // the rest is advice about DuckDB's settings
	}
	msg, _, _ := strings.Cut(text, "\nLINE ")
	return strings.TrimSpace(strings.ReplaceAll(msg, "\n", " "))
}
