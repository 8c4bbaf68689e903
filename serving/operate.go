package serving

import (
	"context"
	"os"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
)

// GetStatus implements OperateService.
func (a *api) GetStatus(ctx context.Context, req *duetv1.GetStatusRequest) (*duetv1.GetStatusResponse, error) {
	res := &duetv1.GetStatusResponse{
		Version:               a.cfg.Version,
		Project:               a.cfg.Project.Name,
		StartTime:             timestamppb.New(a.started),
		Health:                duetv1.Health_HEALTH_STARTING,
		StoreMemoryLimitBytes: a.cfg.Project.Limits.Memory,
		ProcessMemoryBytes:    residentBytes(),
	}
	if req.GetDefinitions() {
		for _, s := range a.cfg.Project.Streams {
			res.Streams = append(res.Streams, &duetv1.StreamStatus{Name: s.Name, File: s.File, Definition: a.cfg.Project.Files[s.File]})
		}
	}
	res.ProjectChangedFiles = a.changed.list()
	progress, words := a.progress()
	res.Live = &duetv1.LiveStatus{Progress: progress}
	p := a.platform.Load()
	if p == nil {
		if words != "" {
			res.Problems = append(res.Problems, words)
		}
		return res, nil
	}
	used, limit := p.Log.Usage()
	first, last := p.Log.First(), p.Log.Last()
	res.Log = &duetv1.LogStatus{
		First:     query.Positions(schemas.NewCut(p.inc, first))[0],
		Last:      query.Positions(schemas.NewCut(p.inc, last))[0],
		UsedBytes: used, LimitBytes: limit,
		Adoptions: query.Adoptions(p.Adoptions),
	}
	through := p.Store.LiveThrough()
	res.Live.Through = query.Positions(schemas.NewCut(p.inc, through))
	res.Live.LagMessages = lag(last, through)
	res.Live.CaughtUp = a.appender.Load() != nil
	m := p.Archive.Current()
	res.Archive = &duetv1.ArchiveStatus{
		Through:  query.Positions(m.Through),
		Manifest: m.Number, Files: int64(len(m.Files)), Bytes: m.Bytes(),
		LagMessages: lag(through, m.Through.Position()),
	}
	res.Batch = p.batchStatus()
	running, scrubbed := p.Scrubber.Status()
	res.Scrub, res.LastScrub = scrubPass(running), scrubPass(scrubbed)
	res.AbandonedQueries = int32(p.engine.Abandoned())
	if err := a.streamStatus(ctx, p, req.GetDefinitions(), res); err != nil {
		return nil, err
	}
	res.Problems = a.problems(p, res)
	switch {
	case a.cfg.Failure() != nil:
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

// lag returns the number of messages between two positions of the same log.
func lag(last, through schemas.Position) uint64 {
	if last <= through {
		return 0
	}
	if last.Ordinal() != through.Ordinal() { // the log was begun behind through
		return last.Sequence()
	}
	return last.Sequence() - through.Sequence()
}

// streamStatus adds streams and views as the store has them.
func (a *api) streamStatus(ctx context.Context, p *platform, definitions bool, res *duetv1.GetStatusResponse) error {
	st, err := p.Store.Stats(ctx)
	if err != nil {
		return err
	}
	res.StoreMemoryBytes = st.Memory
	for _, v := range st.Views {

		res.Views = append(res.Views, &duetv1.ViewStatus{Name: v.View, PartialRows: v.BatchRows + v.LiveRows, Problem: v.Problem})
	}
	res.Streams = nil
	accounts := p.Accounts()
	for _, s := range a.cfg.Project.Streams {
		out := &duetv1.StreamStatus{Name: s.Name, File: s.File, Account: account(accounts[s.Name])}
		if t, ok := st.Newest[s.Name]; ok {
			out.NewestEventTime = timestamppb.New(t)
		}
		if definitions {
			out.Definition = a.cfg.Project.Files[s.File]
		}
		res.Streams = append(res.Streams, out)
	}
	return nil
}

// residentBytes returns the process's resident memory; 0 where the system does
// not report it.
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
