package search

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
)

// check compares all of the node's answers with the model.
func (w *world) check(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	samples, err := w.readers.take()
	if err != nil {
		return err
	}
	for _, s := range samples {
		if err := w.compare(s.res, s.spec.plain(s.spec.all(), "", s.through)); err != nil {
			return fmt.Errorf("a reader of %s: %w", s.name, err)
		}
	}
	for _, name := range w.defs.names() {
		if err := w.checkView(ctx, r, name); err != nil {
			return fmt.Errorf("view %s: %w\nas written: %s", name, err, w.defs.views[name].user(w.defs.views[name].all(), ""))
		}
	}
	return w.checkAccounts(ctx)
}

func (w *world) checkAccounts(ctx context.Context) error {
	st, err := w.ops.GetStatus(ctx, &duetv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if len(st.GetStreams()) != len(w.defs.streams) {
		return fmt.Errorf("status has %d streams, want %d", len(st.GetStreams()), len(w.defs.streams))
	}
	for _, s := range st.GetStreams() {
		a := s.GetAccount()
		got := fmt.Sprint(a.GetReceived(), a.GetAccepted(), a.GetDuplicate(), a.GetRejected())
		m := w.ledgers[s.GetName()].account
		if want := fmt.Sprint(m.Received, m.Accepted, m.Duplicate, m.Rejected); got != want {
			return fmt.Errorf("stream %s: received, accepted, duplicate, rejected: %s, want %s (H1)\n%s", s.GetName(), got, want, w.defs.stream(s.GetName()).yaml())
		}
		rej, err := w.ops.ListRejects(ctx, &duetv1.ListRejectsRequest{Stream: s.GetName(), Limit: 1})
		if err != nil {
			return err
		}
		if rej.GetTotal() != m.Rejected {
			return fmt.Errorf("stream %s: %d rejects on record, want %d", s.GetName(), rej.GetTotal(), m.Rejected)
		}
	}
	return nil
}

func (w *world) checkView(ctx context.Context, r *rand.Rand, name string) error {
	v := w.defs.views[name]
	res, err := w.query(ctx, &duetv1.QueryRequest{View: name, Limit: 10000})
	if v.raises && w.ledgers[v.stream].poison > 0 {
		if status.Code(err) != codes.FailedPrecondition {
			return fmt.Errorf("an event that raises is in the log, but the view is not suspended: %v, %w", res.GetProof(), err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if !res.GetTruncated() {
		if err := w.compare(res, v.plain(v.all(), "", everything)); err != nil {
			return err
		}
	}
	for range 2 {
		if err := w.checkOptions(ctx, r, name, v, res); err != nil {
			return err
		}
	}
	if err := w.checkAsOf(ctx, r, name, v); err != nil {
		return err
	}
	ver, err := w.views.Verify(ctx, &duetv1.VerifyRequest{View: name})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !ver.GetEqual() {
		return fmt.Errorf("verify: %v", ver)
	}
	if n := int64(ver.GetArchivedEvents() + ver.GetTailEvents()); n != w.ledgers[v.stream].account.Accepted {
		return fmt.Errorf("verify read %d events (%d archived, %d of the tail), accepted are %d", n, ver.GetArchivedEvents(), ver.GetTailEvents(), w.ledgers[v.stream].account.Accepted)
	}
	return nil
}

// query returns an answer that is at least as new as the last append.
func (w *world) query(ctx context.Context, req *duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
	if req.GetAsOfGeneration() == 0 {
		req.NotBefore = w.token
	}
	return w.views.Query(ctx, req)
}

// checkOptions compares a random roll-up with random conditions.
func (w *world) checkOptions(ctx context.Context, r *rand.Rand, name string, v *viewSpec, full *duetv1.QueryResponse) error {
	req := &duetv1.QueryRequest{View: name, Limit: 10000}
	keep := v.all()
	var and []string
	if len(v.keys) > 0 {
		if chance(r, 70) {
			keep = r.Perm(len(v.keys))[:r.IntN(len(v.keys)+1)]
			slices.Sort(keep) // columns stand in the view's order
			for _, k := range keep {
				req.GroupBy = append(req.GroupBy, fmt.Sprintf("k%d", k))
			}
			req.Total = len(keep) == 0
		}
		if chance(r, 50) {
			k := r.IntN(len(v.keys))
			c := pick(r, "%s IS NOT NULL", "%s IS NULL", "%s IS DISTINCT FROM NULL AND NOT (%s IS NULL)")
			req.Where = strings.ReplaceAll(c, "%s", fmt.Sprintf("k%d", k))
			and = append(and, strings.ReplaceAll(c, "%s", "("+v.keys[k].sql+")"))
		}
	}
	for k, key := range v.keys {
		if col := full.GetColumns()[k]; col.GetRole() == duetv1.ColumnRole_COLUMN_ROLE_TIME && key.time && chance(r, 50) {
			since := time.Date(2026, time.Month(1+r.IntN(4)), 1, 0, 0, 0, 0, time.UTC)
			req.Since = since.Format(time.DateOnly)
			and = append(and, "("+key.sql+") >= "+literal(since))
			if chance(r, 50) {
				until := since.AddDate(0, 1+r.IntN(2), 0)
				req.Until = until.Format(time.RFC3339)
				and = append(and, "("+key.sql+") < "+literal(until))
			}
		}
	}
	sql := v.plain(keep, strings.Join(and, " AND "), everything)
	if chance(r, 30) {
		req.Having = "m0 > 1"
		sql = "SELECT * FROM (" + sql + ") WHERE m0 > 1"
	}
	res, err := w.query(ctx, req)
	if err != nil {
		return fmt.Errorf("%v: %w", req, err)
	}
	if res.GetTruncated() {
		return nil
	}
	if err := w.compare(res, sql); err != nil {
		return fmt.Errorf("%v: %w", req, err)
	}
	// The same request, ordered and limited.
	groups := len(res.GetRows())
	req.OrderBy, req.Limit = []string{"m0 desc"}, int32(1+r.IntN(5))
	top, err := w.query(ctx, req)
	if err != nil {
		return fmt.Errorf("%v: %w", req, err)
	}
	if n := len(top.GetRows()); n != min(groups, int(req.GetLimit())) || top.GetTruncated() != (groups > n) {
		return fmt.Errorf("%v: %d of %d groups, truncated: %t", req, n, groups, top.GetTruncated())
	}
	return nil
}

// checkAsOf compares a kept generation's numbers, if the view had the same
// definition then.
func (w *world) checkAsOf(ctx context.Context, r *rand.Rand, name string, v *viewSpec) error {
	numbers := slices.Sorted(maps.Keys(w.gens))
	if len(numbers) == 0 || v.raises {
		return nil
	}
	g := pick(r, numbers...)
	if w.gens[g].views[name] != v {
		return nil
	}
	res, err := w.query(ctx, &duetv1.QueryRequest{View: name, Limit: 10000, AsOfGeneration: g})
	if err != nil {
		return fmt.Errorf("as of %d: %w", g, err)
	}
	if res.GetTruncated() {
		return nil
	}
	if err := w.compare(res, v.plain(v.all(), "", w.gens[g].cut)); err != nil {
		return fmt.Errorf("as of %d: %w", g, err)
	}
	return nil
}
