package serving

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/event"
	"duet/serving/reason"
	"duet/speed/eventlog"
)

// inspectors lists what Inspect can show, with the arguments that each takes.
var inspectors = map[string]struct {
	args []string
	show func(*platform, context.Context, map[string]string) ([]*duetv1.InspectTable, error)
}{
	"log":        {[]string{"from", "through", "limit"}, (*platform).inspectLog},
	"archive":    {[]string{"data"}, (*platform).inspectArchive},
	"generation": {[]string{"number"}, (*platform).inspectGeneration},
	"live":       {nil, (*platform).inspectLive},
}

// Inspect implements OperateService.
func (a *api) Inspect(ctx context.Context, req *duetv1.InspectRequest) (*duetv1.InspectResponse, error) {
	in, ok := inspectors[req.GetWhat()]
	if !ok {
		return nil, reason.Field(reason.ArgumentInvalid, "what", "%q cannot be inspected; there are %s", clip(req.GetWhat()), strings.Join(slices.Sorted(maps.Keys(inspectors)), ", "))
	}
	for _, arg := range slices.Sorted(maps.Keys(req.GetArgs())) {
		if !slices.Contains(in.args, arg) {
			return nil, reason.Field(reason.ArgumentInvalid, "args", "%q is not known: inspect %s takes %s", clip(arg), req.GetWhat(), orNone(in.args))
		}
	}
	p := a.platform.Load()
	if p == nil {
		return nil, a.catchingUp()
	}
	tables, err := in.show(p, ctx, req.GetArgs())
	if err != nil {
		return nil, err
	}
	return &duetv1.InspectResponse{Tables: tables}, nil
}

func orNone(args []string) string {
	if len(args) == 0 {
		return "no arguments"
	}
	return strings.Join(args, ", ")
}

// number parses a numeric argument.
func number(args map[string]string, name string, def uint64) (uint64, error) {
	text, ok := args[name]
	if !ok {
		return def, nil
	}
	n, err := strconv.ParseUint(text, 10, 47)
	if err != nil {
		return 0, reason.Field(reason.ArgumentInvalid, "args."+name, "%q is not a number", clip(text))
	}
	return n, nil
}

// table builds an InspectTable of texts and integers.
type table struct{ t *duetv1.InspectTable }

func newTable(title string, columns ...string) table {
	t := &duetv1.InspectTable{Title: title}
	for _, c := range columns {
		name, typ, ok := strings.Cut(c, " ")
		if !ok {
			typ = "VARCHAR"
		}
		t.Columns = append(t.Columns, &duetv1.Column{Name: name, Type: typ, Exact: true})
	}
	return table{t}
}

func (t table) add(values ...any) {
	row := &duetv1.Row{}
	for _, v := range values {
		row.Values = append(row.Values, value(v))
	}
	t.t.Rows = append(t.t.Rows, row)
}

func value(v any) *duetv1.Value {
	switch v := v.(type) {
	case nil:
		return &duetv1.Value{}
	case int:
		return &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: int64(v)}}
	case int64:
		return &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: v}}
	case uint64:
		return &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: int64(v)}}
	case time.Time:
		return &duetv1.Value{Kind: &duetv1.Value_LocalValue{LocalValue: v.UTC().Format("2006-01-02T15:04:05.000000")}}
	}
	return &duetv1.Value{Kind: &duetv1.Value_StringValue{StringValue: fmt.Sprint(v)}}
}

const maxInspect = 1000 // messages of the log in one answer

func (p *platform) inspectLog(ctx context.Context, args map[string]string) ([]*duetv1.InspectTable, error) {
	limit, err := number(args, "limit", 50)
	if err != nil {
		return nil, err
	}
	limit = min(limit, maxInspect)
	through, err := number(args, "through", p.Log.Last().Sequence())
	if err != nil {
		return nil, err
	}
	from := p.Log.First().Sequence()
	if through > limit {
		from = max(from, through-limit+1) // the latest by default
	}
	if from, err = number(args, "from", from); err != nil {
		return nil, err
	}
	if from > 0 && through >= from+limit {
		through = from + limit - 1
	}
	inc := p.inc
	used, max := p.Log.Usage()
	head := newTable("log", "incarnation", "ordinal BIGINT", "created", "first", "last", "used_bytes BIGINT", "limit_bytes BIGINT")
	head.add(inc.ID, int(inc.Ordinal), inc.Created, p.Log.First(), p.Log.Last(), used, max)
	t := newTable("messages", "position", "time TIMESTAMP", "subject", "bytes BIGINT", "events BIGINT", "what")
	err = p.Log.List(ctx, schemas.NewPosition(inc.Ordinal, from), schemas.NewPosition(inc.Ordinal, through), func(e eventlog.Entry) error {
		if e.Problem != nil {
			t.add(e.At, nil, nil, nil, nil, e.Problem)
			return nil
		}
		events, what := describe(e)
		t.add(e.At, e.Time, e.Subject, e.Bytes, events, what)
		return nil
	})
	return []*duetv1.InspectTable{head.t, t.t}, err
}

// describe summarizes what a message holds.
func describe(e eventlog.Entry) (events any, what string) {
	if !strings.HasPrefix(e.Subject, "duet.e.") {
		text := strings.Join(strings.Fields(string(e.Data)), " ")
		if len(text) > 120 {
			text = strings.ToValidUTF8(text[:117], "") + "..."
		}
		return nil, text
	}
	env, err := event.ParseEnvelope(e.Data)
	if err != nil {
		return nil, err.Error()
	}
	var runs []string
	for _, r := range env.Runs {
		switch {
		case r.File != "":
			runs = append(runs, fmt.Sprintf("%s lines %d..%d", r.File, r.Numbers[0], r.Numbers[r.Count-1]))
		case r.Lines != nil:
			runs = append(runs, fmt.Sprintf("%d file lines", r.Count))
		case r.Producer != "":
			runs = append(runs, fmt.Sprintf("%s %d..%d", r.Producer, r.First, r.First+uint64(r.Count)-1))
		default:
			runs = append(runs, fmt.Sprintf("%d without producer", r.Count))
		}
		if len(runs) == 8 {
			runs = append(runs, "...")
			break
		}
	}
	return env.Count(), strings.Join(runs, "; ")
}

func (p *platform) inspectArchive(_ context.Context, args map[string]string) ([]*duetv1.InspectTable, error) {
	m := p.Archive.Current()
	head := newTable("manifest", "number BIGINT", "kind", "created TIMESTAMP", "through", "files BIGINT", "bytes BIGINT", "producers BIGINT")
	head.add(m.Number, string(m.Kind), m.Created, m.Through.Position(), len(m.Files), m.Bytes(), len(p.Archive.Producers()))
	streams := newTable("streams", "stream", "received BIGINT", "accepted BIGINT", "duplicate BIGINT", "rejected BIGINT", "sums")
	for _, name := range slices.Sorted(maps.Keys(m.Streams)) {
		t := m.Streams[name]
		sums, _ := json.Marshal(t.Sums) // a map of texts
		streams.add(name, t.Received, t.Accepted, t.Duplicate, t.Rejected, string(sums))
	}
	files := newTable("files", "data", "after", "through", "rows BIGINT", "bytes BIGINT", "oldest_event", "newest_event", "path", "xxh3_128", "content")
	for _, f := range m.Files {
		if want := args["data"]; want != "" && f.Data != want {
			continue
		}
		files.add(f.Data, f.From, f.Through, f.Rows, f.Bytes, f.OldestEvent, f.NewestEvent, f.Path, f.XXH3, f.Content)
	}
	return []*duetv1.InspectTable{head.t, streams.t, files.t}, nil
}

// inspectGeneration shows one generation; the current one by default.
func (p *platform) inspectGeneration(_ context.Context, args map[string]string) ([]*duetv1.InspectTable, error) {
	var current uint64
	if g := p.Catalog.Current(); g != nil {
		current = g.Number
	}
	want, err := number(args, "number", current)
	if err != nil {
		return nil, err
	}
	head := newTable("generation", "number BIGINT", "kind", "base BIGINT", "published TIMESTAMP", "cut", "archive BIGINT", "run", "rollback_of BIGINT")
	views := newTable("views", "view", "definition", "groups BIGINT", "bytes BIGINT", "cells BIGINT", "file", "xxh3_128", "suspended")
	totals := newTable("totals", "stream", "received BIGINT", "accepted BIGINT", "duplicate BIGINT", "rejected BIGINT")
	tables := []*duetv1.InspectTable{head.t, views.t, totals.t}
	if want == 0 {
		return tables, nil // none is published yet
	}
	g, err := p.Catalog.Get(want)
	if err != nil {
		return nil, err
	}
	head.add(g.Number, string(g.Kind), g.Base, g.Published, g.Cut.Position(), g.Archive, g.Run, g.Of)
	for _, v := range g.Views {
		suspended := ""
		if v.Suspended != nil {
			suspended = v.Suspended.Message
		}
		views.add(v.Name, v.Definition, v.Rows, v.Bytes, len(v.Cells), v.File, v.XXH3, suspended)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Streams)) {
		t := g.Streams[name]
		totals.add(name, t.Received, t.Accepted, t.Duplicate, t.Rejected)
	}
	return tables, nil
}

func (p *platform) inspectLive(ctx context.Context, _ map[string]string) ([]*duetv1.InspectTable, error) {
	st, err := p.Store.Stats(ctx)
	if err != nil {
		return nil, err
	}
	head := newTable("store", "generation BIGINT", "cut", "live_through", "archived", "memory_bytes BIGINT", "memory_limit_bytes BIGINT", "tail_rows BIGINT", "tail_blocks BIGINT", "merges BIGINT", "moments BIGINT")
	head.add(st.Generation, st.Cut, st.LiveThrough, st.Archived, st.Memory, st.MemoryLimit, st.Tail.Rows, st.Tail.Blocks, st.Merges.Done, st.Moments)
	segments := newTable("segments", "number BIGINT", "after", "through")
	for _, s := range st.Segments {
		through := "open"
		if s.Through != 0 {
			through = s.Through.String()
		}
		segments.add(s.Number, s.After, through)
	}
	views := newTable("views", "view", "definition", "batch_rows BIGINT", "live_rows BIGINT", "live_tables BIGINT", "problem")
	for _, v := range st.Views {
		views.add(v.View, v.Definition, v.BatchRows, v.LiveRows, v.LiveTables, v.Problem)
	}
	return []*duetv1.InspectTable{head.t, segments.t, views.t}, nil
}
