package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
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

// operator answers OperateService, from the first moment on.
type operator struct{ n *Node }

// GetStatus tells whether it is up and well.
func (o *operator) GetStatus(ctx context.Context, req *duetv1.GetStatusRequest) (*duetv1.GetStatusResponse, error) {
	n := o.n
	res := &duetv1.GetStatusResponse{
		Version:               n.cfg.Version,
		Project:               n.project.Name,
		StartTime:             timestamppb.New(n.started),
		Health:                duetv1.Health_HEALTH_STARTING,
		StoreMemoryLimitBytes: n.project.Limits.Memory,
		ProcessMemoryBytes:    residentBytes(),
	}
	if req.GetDefinitions() {
		for _, s := range n.project.Streams {
			res.Streams = append(res.Streams, &duetv1.StreamStatus{Name: s.Name, File: s.File, Definition: n.project.Files[s.File]})
		}
	}
	progress, words := n.progress()
	res.Live = &duetv1.LiveStatus{Progress: progress}
	if !n.opened.Load() {
		if words != "" {
			res.Problems = append(res.Problems, words)
		}
		return res, nil
	}
	inc := n.lane.log.Incarnation()
	used, limit := n.lane.log.Usage()
	first, last := n.lane.log.First(), n.lane.log.Last()
	res.Log = &duetv1.LogStatus{
		First:     query.Positions(schemas.NewCut(inc, first))[0],
		Last:      query.Positions(schemas.NewCut(inc, last))[0],
		UsedBytes: used, LimitBytes: limit,
	}
	through := n.store.LiveThrough()
	res.Live.Through = query.Positions(schemas.NewCut(inc, through))
	res.Live.LagMessages = lag(last, through)
	res.Live.CaughtUp = n.Ready()
	m := n.lane.archive.Current()
	res.Archive = &duetv1.ArchiveStatus{
		Through:  query.Positions(m.Through),
		Manifest: m.Number, Files: int64(len(m.Files)), Bytes: m.Bytes(),
		LagMessages: lag(through, m.Through.Position()),
	}
	res.Batch = n.half.Status()
	if err := o.streams(ctx, req.GetDefinitions(), res); err != nil {
		return nil, err
	}
	res.Problems = n.problems(res.Views, res.Batch)
	switch {
	case n.failure() != nil:
		res.Health = duetv1.Health_HEALTH_FAILED
	case !res.Live.CaughtUp:
		res.Health = duetv1.Health_HEALTH_STARTING
	case len(res.Problems) > 0:
		res.Health = duetv1.Health_HEALTH_DEGRADED
	default:
		res.Health = duetv1.Health_HEALTH_OK
	}
	return res, nil
}

// lag counts the messages from one position to another of the same log.
func lag(last, through schemas.Position) uint64 {
	if last <= through {
		return 0
	}
	return last.Sequence() - through.Sequence()
}

// streams adds streams and views as the store has them.
func (o *operator) streams(ctx context.Context, definitions bool, res *duetv1.GetStatusResponse) error {
	st, err := o.n.store.Stats(ctx)
	if err != nil {
		return err
	}
	res.StoreMemoryBytes = st.Memory
	for _, v := range st.Views {
		if strings.HasPrefix(v.View, totalsPrefix) {
			continue
		}
		res.Views = append(res.Views, &duetv1.ViewStatus{Name: v.View, PartialRows: v.BatchRows + v.LiveRows, Problem: v.Problem})
	}
	res.Streams = nil
	accounts := o.n.accounts()
	return o.n.store.Read(ctx, func(sn *store.Snapshot) error {
		for _, s := range o.n.project.Streams {
			a := accounts[s.Name]
			out := &duetv1.StreamStatus{Name: s.Name, File: s.File, Account: &duetv1.Account{
				Received: a.Received, Accepted: a.Accepted, Duplicate: a.Duplicate, Rejected: a.Rejected}}
			if t, ok := sn.NewestEventTime(s.Name); ok {
				out.NewestEventTime = timestamppb.New(t)
			}
			if definitions {
				out.Definition = o.n.project.Files[s.File]
			}
			res.Streams = append(res.Streams, out)
		}
		return nil
	})
}

// Limits of a list of rejects.
const (
	defaultRejects = 100
	maxRejects     = 10_000
	maxRejectBytes = 4096
)

// ListRejects lists refused events, the latest first, with their reasons.
func (o *operator) ListRejects(ctx context.Context, req *duetv1.ListRejectsRequest) (*duetv1.ListRejectsResponse, error) {
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = defaultRejects
	case limit < 0 || limit > maxRejects:
		return nil, reason.Field(reason.ArgumentInvalid, "limit", "%d is not between 0 and %d", limit, maxRejects)
	}
	if req.GetStream() != "" && o.n.project.Stream(req.GetStream()) == nil {
		return nil, reason.New(reason.StreamUnknown, "there is no stream %q", req.GetStream())
	}
	if !o.n.opened.Load() {
		return nil, reason.New(reason.CatchingUp, "the server is starting; try again")
	}
	res := &duetv1.ListRejectsResponse{}
	err := o.n.store.Read(ctx, func(sn *store.Snapshot) error {
		snap := o.n.lane.archive.Snapshot() // after the transaction began: what its tail has let go of is in here
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
		return o.collect(ctx, sn, rel+" WHERE "+where, limit, res)
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (o *operator) collect(ctx context.Context, sn *store.Snapshot, from string, limit int, res *duetv1.ListRejectsResponse) error {
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
	rows, err = sn.Query(ctx, fmt.Sprintf("SELECT stream, reason, coalesce(column_name, ''), raw[1:%d], received_at, coalesce(session, ''), %s, %s FROM %s ORDER BY %s DESC, %s DESC LIMIT %d",
		maxRejectBytes, schemas.ColAt, schemas.ColRecord, from, schemas.ColAt, schemas.ColRecord, limit))
	if err != nil {
		return err
	}
	defer rows.Close()
	inc := o.n.lane.log.Incarnation()
	for rows.Next() {
		var (
			r      duetv1.Reject
			at     int64
			record int32
			when   time.Time
		)
		if err := rows.Scan(&r.Stream, &r.Reason, &r.Column, &r.Raw, &when, &r.Session, &at, &record); err != nil {
			return err
		}
		r.Time = timestamppb.New(when)
		r.Position = query.Positions(schemas.NewCut(inc, schemas.Position(at)))[0]
		r.Position.Record = uint32(record)
		res.Rejects = append(res.Rejects, &r)
	}
	return rows.Err()
}

// residentBytes is the process's resident memory; 0 where the system does not
// tell.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
