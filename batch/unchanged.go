package batch

import (
	"errors"

	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/schemas"
)

// errUnchanged ends a run that has nothing to publish.
var errUnchanged = errors.New("nothing has changed since the base")

// nothingNew reports whether the run would compute what the base holds, provided
// that no event has come: it is not asked for by hand to compute in full or to
// accept, the base has every view under its present definition and no other, and
// no view is to be staged again. A scheduled full run has nothing new only if the
// base was computed in full too.
func (a *attempt) nothingNew(views []recompute.View) bool {
	full := a.run.Kind == Full && (a.run.Trigger == Manual || a.base.Kind != catalog.Full)
	if full || a.run.Accept || len(views) != len(a.base.Views) {
		return false
	}
	for _, v := range views {
		bv := a.base.View(v.Name)
		if bv == nil || bv.Definition != v.Definition {
			return false
		}
		// Once a process has found a view unfit, only a request or new events make
		// it try again.
		if s := bv.Suspended; s != nil && s.Unfit && (a.run.Trigger == Manual || !a.cfg.Catalog.Published(a.base)) {
			return false
		}
	}
	return true
}

// noEvents reports whether the archive reaches a position without an event since
// the base's cut. It may report false if a block is not archived yet.
func (a *attempt) noEvents(at schemas.Position) bool {
	if at == a.base.Cut.Position() {
		return true
	}
	totals, ok := a.cfg.Archive.TotalsAt(at)
	if !ok || at < a.base.Cut.Position() {
		return false
	}
	for name, t := range totals {
		if t.Account != a.base.Streams[name].Account {
			return false
		}
	}
	return true
}
