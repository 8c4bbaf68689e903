package serving

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/reason"
	"duet/serving/store"
)

// Limits of a list of rejects.
const (
	defaultRejects = 100
	maxRejects     = 10_000
	maxRejectBytes = 4096
	maxReasons     = 100
)

// ListRejects implements OperateService.
func (a *api) ListRejects(ctx context.Context, req *duetv1.ListRejectsRequest) (*duetv1.ListRejectsResponse, error) {
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = defaultRejects
	case limit < 0 || limit > maxRejects:
		return nil, reason.Field(reason.ArgumentInvalid, "limit", "%d is not between 0 and 10,000", limit)
	}
	if req.GetStream() != "" {
		if _, err := a.stream(req.GetStream()); err != nil {
			return nil, err
		}
	}
	if err := checkID("session", req.GetSession()); err != nil {
		return nil, err
	}
	p := a.platform.Load()
	res := &duetv1.ListRejectsResponse{}
	err := p.Store.Read(ctx, func(sn *store.Snapshot) error {
		snap := p.Archive.Snapshot() // taken after the transaction began: it holds what the transaction's tail lacks
		defer snap.Release()
		through := snap.Through.Position()
		archived, err := snap.Relation(ctx, archive.Rejects, 0, through)
		if err != nil {
			return err
		}
		rel := rejectsRelation(archived, sn.Tail(archive.Rejects), through, sn.LiveThrough())
		where := "true"
		if s := req.GetStream(); s != "" {
			where += " AND stream = " + duck.Literal(s)
		}
		if s := req.GetSession(); s != "" {
			where += " AND session = " + duck.Literal(s)
		}
		from := rel + " WHERE " + where
		if req.GetByReason() {
			if err := p.collectReasons(ctx, sn, from, res); err != nil {
				return err
			}
		}
		return p.collectRejects(ctx, sn, from, limit, res)
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// rejectColumns are what scanReject reads.
var rejectColumns = fmt.Sprintf("stream, reason, coalesce(column_name, ''), raw[1:%d], received_at, coalesce(session, ''), coalesce(file, ''), coalesce(line, 0), %s, %s",
	maxRejectBytes, schemas.ColAt, schemas.ColRecord)

// scanReject reads rejectColumns, and more columns after them.
func (p *platform) scanReject(rows *sql.Rows, more ...any) (*duetv1.Reject, error) {
	var (
		r      duetv1.Reject
		at     int64
		record int32
		when   time.Time
	)
	if err := rows.Scan(append([]any{&r.Stream, &r.Reason, &r.Column, &r.Raw, &when, &r.Session, &r.File, &r.Line, &at, &record}, more...)...); err != nil {
		return nil, err
	}
	r.Time = timestamppb.New(when)
	r.Position = query.Positions(schemas.NewCut(p.inc, schemas.Position(at)))[0]
	r.Position.Record = uint32(record)
	return &r, nil
}

func (p *platform) collectRejects(ctx context.Context, sn *store.Snapshot, from string, limit int, res *duetv1.ListRejectsResponse) error {
	rows, err := sn.Query(ctx, "SELECT count(*) FROM "+from)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := rows.Scan(&res.Total); err != nil {
			rows.Close()
			return err
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	res.Truncated = res.Total > int64(limit)
	rows, err = sn.Query(ctx, fmt.Sprintf("SELECT %s FROM %s ORDER BY %s DESC, %s DESC LIMIT %d", rejectColumns, from, schemas.ColAt, schemas.ColRecord, limit))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := p.scanReject(rows)
		if err != nil {
			return err
		}
		res.Rejects = append(res.Rejects, r)
	}
	return rows.Err()
}

// collectReasons counts rejects by reason. A reason quotes the event's value, which
// may itself contain quotes: what stands between the first quote and the last is
// replaced, so that the reason is the same for every event.
func (p *platform) collectReasons(ctx context.Context, sn *store.Snapshot, from string, res *duetv1.ListRejectsResponse) error {
	rows, err := sn.Query(ctx, fmt.Sprintf(`SELECT %[1]s, kind, n FROM (
		SELECT *, count(*) OVER (PARTITION BY kind) AS n, row_number() OVER (PARTITION BY kind ORDER BY %[2]s, %[3]s) AS nth
		FROM (SELECT *, regexp_replace(reason, '".*"', '…', 's') AS kind FROM %[4]s)
	) WHERE nth = 1 ORDER BY n DESC, kind LIMIT %[5]d`, rejectColumns, schemas.ColAt, schemas.ColRecord, from, maxReasons))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		r := &duetv1.RejectReason{}
		if r.First, err = p.scanReject(rows, &r.Reason, &r.Count); err != nil {
			return err
		}
		res.Reasons = append(res.Reasons, r)
	}
	return rows.Err()
}

// rejectsRelation returns a SQL relation of every reject, archived or not, as of
// a read transaction. archived is "" if no file holds any.
func rejectsRelation(archived, tail string, through, liveThrough schemas.Position) string {
	parts := []string{fmt.Sprintf("SELECT * FROM %s WHERE %s > %d", tail, schemas.ColAt, int64(through))}
	if archived != "" {
		parts = append(parts, fmt.Sprintf("SELECT * FROM %s WHERE %s <= %d", archived, schemas.ColAt, int64(liveThrough)))
	}
	return "(" + strings.Join(parts, " UNION ALL BY NAME ") + ")"
}
