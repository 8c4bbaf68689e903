package recompute

import (
	"context"
	"fmt"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/schemas"
)

// remedy says what to do about a view that cannot be evaluated.
const remedy = "edit the view so that this cannot raise (TRY_CAST, a wider CAST, or a WHERE that leaves such events out); it is then computed from the archive"

// locate finds the first event that the view cannot be computed over: the file by
// bisecting the files, then the message and the event within that file. Each step
// reads half of what the one before it read, so it reads the span about twice.
func (w *worker) locate(ctx context.Context, v ViewJob, cause error) (*Suspension, error) {
	p := &probe{worker: w, view: v, low: 0, high: w.job.Through, cause: cause}
	if v.Mode == Incremental {
		p.low = w.job.After
	}
	// The cause if the events raise only together, as a sum that grows too large.
	together := func() *Suspension {
		return &Suspension{View: v.Name, At: w.job.Through, Record: -1, Message: firstLine(p.cause), Remedy: remedy}
	}
	files := within(w.streams[v.Stream].Files, p.low, p.high)
	low, high := p.low, p.high
	found, err := p.bisect(ctx, len(files), func(a, b int) {
		p.low, p.high = max(low, files[a].From), min(high, files[b-1].Through)
	})
	if err != nil || !found {
		return together(), err
	}
	messages, err := p.values(ctx, schemas.ColAt)
	if err != nil {
		return nil, err
	}
	if found, err = p.bisect(ctx, len(messages), func(a, b int) {
		p.low, p.high = schemas.Position(messages[a])-1, schemas.Position(messages[b-1])
	}); err != nil || !found {
		return together(), err
	}
	at, record := p.high, int32(-1) // -1 if the message's events raise only together
	records, err := p.values(ctx, schemas.ColRecord)
	if err != nil {
		return nil, err
	}
	found, err = p.bisect(ctx, len(records), func(a, b int) {
		record = int32(records[b-1])
		p.where = fmt.Sprintf("%s BETWEEN %d AND %d", schemas.ColRecord, records[a], records[b-1])
	})
	if !found {
		record = -1
	}
	return &Suspension{View: v.Name, At: at, Record: record, Message: firstLine(p.cause), Remedy: remedy}, err
}

// probe narrows down the rows that a view cannot be computed over: those in (low,
// high] for which where holds.
type probe struct {
	*worker
	view      ViewJob
	low, high schemas.Position
	where     string
	cause     error // the newest evaluation error
}

// bisect narrows the probe, which raises, to one of n parts; narrow sets it to the
// parts [a, b). It reports false if the parts raise only together.
func (p *probe) bisect(ctx context.Context, n int, narrow func(a, b int)) (found bool, err error) {
	if n == 0 {
		return false, nil
	}
	a, b := 0, n
	for b-a > 1 {
		mid := a + (b-a)/2
		narrow(a, mid)
		raised, err := p.raises(ctx)
		if err != nil {
			return false, err
		}
		if raised {
			b = mid
			continue
		}
		narrow(mid, b)
		if raised, err = p.raises(ctx); err != nil || !raised {
			return false, err
		}
		a = mid
	}
	narrow(a, b)
	return true, nil
}

// raises computes the probe's rows and reports whether that raises an evaluation
// error.
func (p *probe) raises(ctx context.Context) (bool, error) {
	var rows int64
	for _, f := range within(p.streams[p.view.Stream].Files, p.low, p.high) {
		rows += f.Rows
	}
	p.progress(Progress{Step: "locate", View: p.view.Name, Done: len(p.results), Total: len(p.job.Views), Rows: rows})
	err := p.partial(ctx, p.view, "probe", p.low, p.high, p.where)
	if duck.Evaluates(err) {
		p.cause = err
		return true, nil
	}
	return false, err
}

// values returns the distinct values of a column of the probe's rows, ascending.
func (p *probe) values(ctx context.Context, column string) ([]int64, error) {
	files := within(p.streams[p.view.Stream].Files, p.low, p.high)
	rows, err := p.conn.QueryContext(ctx, fmt.Sprintf("SELECT DISTINCT %s::BIGINT AS v FROM %s ORDER BY v", column, archive.Relation(p.job.Archive, files, p.low, p.high)))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []int64
	for rows.Next() {
		var v int64
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
