package store

import (
	"context"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/view"
)

// Open makes an empty store of a project's streams and views: generation 0, cut
// 0, live-through 0. Close frees it.
func Open(cfg Config, streams []*event.Schema, views []*view.View) (*Store, error) {
	sets := []*dataset{
		newDataset(RejectsSet, event.RejectSQLColumns, event.RejectArrow),
		newDataset(LinesSet, event.LinesSQLColumns, event.LinesArrow),
	}
	for _, s := range streams {
		sets = append(sets, newDataset(s.Stream().Name, s.SQLColumns(), s.Arrow()))
	}
	defs := make([]*definition, len(views))
	for i, v := range views {
		defs[i] = &definition{name: v.Name, stream: v.Stream, hash: v.Definition, cells: v.CellColumns(), partial: v.PartialSQL, merge: v.MergeSQL}
	}
	return open(cfg, sets, defs)
}

func newDataset(name, columns string, schema *arrow.Schema) *dataset {
	d := &dataset{name: name, columns: columns}
	for _, f := range schema.Fields() {
		d.names = append(d.names, f.Name)
	}
	return d
}

// Apply adds a micro-batch, in one transaction: rows, rejects, file lines, the
// partials of every view of the streams that have rows, and live-through. A
// view that cannot be computed for some event is suspended and the rest done.
//
// A *TailFullError or a *ResourceError means that nothing was applied, and that
// the same batch may be applied again. The batch stays the caller's; b.Through
// must lie beyond LiveThrough, and no control record within the span.
func (s *Store) Apply(ctx context.Context, b *event.Batch) error {
	in := &load{
		through: b.Through, accounts: map[string]schemas.Account{}, producers: map[string]uint64{}, newest: map[string]time.Time{},
	}
	for _, r := range b.Records() {
		in.sets = append(in.sets, setRows{r.Stream, r.Record})
		if !r.NewestEventTime.IsZero() {
			in.newest[r.Stream] = r.NewestEventTime
		}
	}
	for _, r := range []setRows{{RejectsSet, b.RejectRecord()}, {LinesSet, b.LinesRecord()}} {
		if r.rec != nil {
			in.sets = append(in.sets, r)
		}
	}
	for _, a := range b.Accounts() {
		in.accounts[a.Stream] = a.Account
	}
	for _, p := range b.Producers() {
		in.producers[p.Name] = p.Last
	}
	return s.apply(ctx, in)
}
