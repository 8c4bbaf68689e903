// Package query answers from views: it turns a request into one SELECT over
// the partial rows of both halves, runs it in one read transaction of the store,
// and returns with each answer what the answer is made of (its proof).
//
// Start at [Engine.Query]; [Engine.Verify] computes the same numbers again
// without the merge. If one half cannot answer whole, the answer is an error
// that names it, never a smaller number (H6). A transaction lasts one bounded
// query: rows are copied to memory, and the transaction ends, before anything is
// sent.
//
// The package knows nothing of gRPC.
package query

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/project"
	"duet/schemas/view"
	"duet/serving/reason"
	"duet/serving/store"
)

// Limits of one answer.
const (
	DefaultRows = 1_000
	MaxRows     = 10_000
	maxText     = 16 << 10 // bytes of a condition
	maxBound    = 64 << 10 // bytes of a condition with its parameters' values
	maxNames    = 256      // names in group_by, order_by, params
)

// View is a view as the user wrote it and as it was compiled.
type View struct {
	Project  *project.View
	Compiled *view.View
}

// Config describes an engine.
type Config struct {
	Views   []View
	Streams []*project.Stream
	Store   *store.Store
	Archive *archive.Archive
	Catalog *catalog.Catalog
	// Wait returns when live-through has reached a position, or when ctx ends.
	Wait func(ctx context.Context, at schemas.Position) error
	// Last returns the position of the log's last message.
	Last        func() schemas.Position
	Incarnation schemas.Incarnation // of the log
	Adoptions   []schemas.Adoption  // logs that were begun in place of lost ones; each proof names them

	MaxBytes   int              // of an answer; defaults to 4 MiB
	Deadline   time.Duration    // the longest time of a call; defaults to 30 s
	Concurrent int              // short statements at a time; defaults to the number of processors, at least 2
	Long       int              // statements that run longer than Overtime, or outlive their call; defaults to 8
	Overtime   time.Duration    // how long a statement is a short one; defaults to 1 s
	Waiting    int              // calls that wait for a position at a time; defaults to 256
	Now        func() time.Time // defaults to time.Now
}

// Engine answers queries. It is safe for concurrent use.
type Engine struct {
	cfg     Config
	views   map[string]View
	streams map[string]*project.Stream
	reads   reads
}

// New returns an engine. The fields of Config without a default are required.
func New(cfg Config) *Engine {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 4 << 20
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = 30 * time.Second
	}
	if cfg.Concurrent == 0 {
		cfg.Concurrent = defaultConcurrent()
	}
	if cfg.Long == 0 {
		cfg.Long = defaultLong
	}
	if cfg.Overtime == 0 {
		cfg.Overtime = time.Second
	}
	if cfg.Waiting == 0 {
		cfg.Waiting = 256
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	e := &Engine{cfg: cfg, views: map[string]View{}, streams: map[string]*project.Stream{}, reads: newReads(cfg)}
	for _, v := range cfg.Views {
		e.views[v.Project.Name] = v
	}
	for _, s := range cfg.Streams {
		e.streams[s.Name] = s
	}
	return e
}

// view returns the view of a name that a client sent.
func (e *Engine) view(name string) (View, error) {
	v, ok := e.views[name]
	if !ok {
		if !project.ValidName(name) {
			return View{}, reason.Field(reason.ArgumentInvalid, "view", "%q is not a name: names are lower-case letters, digits and _, beginning with a letter, up to 63 characters", clip(name))
		}
		return View{}, reason.New(reason.ViewUnknown, "view %q: there is no such view; %s", name, DidYouMean(name, e.Names()))
	}
	return v, nil
}

// Names returns the names of the views, sorted.
func (e *Engine) Names() []string {
	var names []string
	for n := range e.views {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Query answers one request.
func (e *Engine) Query(ctx context.Context, req *duetv1.QueryRequest) (*duetv1.QueryResponse, error) {
	v, err := e.view(req.GetView())
	if err != nil {
		return nil, err
	}
	opts, limit, err := e.options(v, req)
	if err != nil {
		return nil, err
	}
	if req.GetAsOfGeneration() != 0 && req.GetNotBefore() != "" {
		return nil, reason.Field(reason.ArgumentInvalid, "not_before", "excludes as_of_generation, whose numbers never change; send one of them")
	}
	ctx, cancel := e.deadline(ctx)
	defer cancel()
	token, err := e.NotBefore(ctx, req.GetNotBefore())
	if err != nil {
		return nil, err
	}
	return read(ctx, e, token, func(s *store.Snapshot) (*duetv1.QueryResponse, error) {
		src, err := e.source(ctx, s, v, req.GetAsOfGeneration())
		if err != nil {
			return nil, err
		}
		text, cols, err := v.Compiled.FinalSQL(src.partials, opts)
		if err != nil {
			return nil, conditionError(err)
		}
		rows, more, err := e.collect(ctx, s, text, len(cols), limit)
		if err != nil && req.GetAsOfGeneration() != 0 {
			// The generation may have been deleted while it was read.
			if _, gone := e.published(req.GetAsOfGeneration(), v.Compiled.Name); gone != nil {
				return nil, gone
			}
		}
		if err != nil {
			return nil, e.evaluation(ctx, v, req, err)
		}
		src.proof.InexactColumns = inexact(cols)
		out := &duetv1.QueryResponse{Columns: columns(v.Project, cols), Rows: rows, Truncated: more, Proof: src.proof}
		out.Notes = notes(v, req, out)
		if req.GetFormat() == formatObjects {
			out.Objects, out.Rows = objects(out.Columns, out.Rows), nil
		}
		return out, nil
	})
}

// source is the relation of an answer's partial rows, and the proof of the answer.
type source struct {
	partials string
	proof    *duetv1.Proof
}

func (e *Engine) source(ctx context.Context, s *store.Snapshot, v View, asOf uint64) (source, error) {
	if asOf == 0 {
		from, err := s.Partials(v.Compiled.Name)
		if err != nil {
			return source{}, err
		}
		newest, _ := s.NewestEventTime(v.Compiled.Stream)
		return source{from, e.proof(s.Generation(), s.Cut(), s.LiveThrough(), v, newest)}, nil
	}
	p, err := e.published(asOf, v.Compiled.Name)
	if err != nil {
		return source{}, err
	}
	if p.definition != v.Compiled.Definition {
		return source{}, reason.New(reason.DefinitionDiffers, "view %q: generation %d was computed under another definition (%.12s, now %.12s), whose cells this one cannot read; ask for a generation computed under the present one",
			v.Compiled.Name, asOf, p.definition, v.Compiled.Definition)
	}
	return source{p.partials, e.proof(asOf, p.cut, p.cut, v, time.Time{})}, nil
}

func (e *Engine) proof(gen uint64, cut, through schemas.Position, v View, newest time.Time) *duetv1.Proof {
	p := &duetv1.Proof{
		Generation:  gen,
		Cut:         Positions(CutAt(e.cfg.Incarnation, cut)),
		LiveThrough: Positions(CutAt(e.cfg.Incarnation, through)),
		Definition:  v.Compiled.Definition,
		Token:       Token{gen, CutAt(e.cfg.Incarnation, through)}.String(),
		Adoptions:   Adoptions(e.cfg.Adoptions),
	}
	if !newest.IsZero() {
		p.NewestEventTime = timestamppb.New(newest)
	}
	return p
}

// CutAt returns the cut at one position, in the present incarnation or, with an
// unknown id, in an earlier one. The cut at 0 is nil.
func CutAt(inc schemas.Incarnation, at schemas.Position) schemas.Cut {
	if at == 0 {
		return nil
	}
	if at.Ordinal() != inc.Ordinal {
		inc = schemas.Incarnation{}
	}
	return schemas.NewCut(inc, at)
}

// Positions converts a cut.
func Positions(c schemas.Cut) []*duetv1.Position {
	out := make([]*duetv1.Position, len(c))
	for i, p := range c {
		out[i] = &duetv1.Position{Lane: uint32(p.Lane), Incarnation: p.Incarnation, Ordinal: p.Ordinal, Sequence: p.Sequence}
	}
	return out
}

// collect runs text and returns up to limit rows; more reports whether there were
// further ones.
func (e *Engine) collect(ctx context.Context, s *store.Snapshot, text string, want, limit int) (out []*duetv1.Row, more bool, err error) {
	rows, err := s.Query(ctx, text)
	if err != nil {
		return nil, false, err
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, false, err
	}
	if len(types) != want {
		return nil, false, fmt.Errorf("the statement has %d columns, not %d", len(types), want)
	}
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.DatabaseTypeName()
	}
	cells, ptrs := make([]any, len(types)), make([]any, len(types))
	for i := range cells {
		ptrs[i] = &cells[i]
	}
	bytes := 0
	for rows.Next() {
		if len(out) == limit {
			return out, true, rows.Err()
		}
		if err := rows.Scan(ptrs...); err != nil {
			return nil, false, err
		}
		row := &duetv1.Row{Values: make([]*duetv1.Value, len(cells))}
		for i, c := range cells {
			if row.Values[i], err = ToValue(c, names[i]); err != nil {
				return nil, false, fmt.Errorf("column %q: %w", types[i].Name(), err)
			}
			bytes += size(row.Values[i])
		}
		if bytes > e.cfg.MaxBytes {
			return nil, false, reason.New(reason.ResultTooLarge, "the answer is larger than %d bytes after %d rows; ask for fewer rows or columns, or narrow it by where or since", e.cfg.MaxBytes, len(out))
		}
		out = append(out, row)
	}
	return out, false, rows.Err()
}

// options checks a request and converts it to the compiler's options. The limit
// returned is the request's; the options ask for one row more.
func (e *Engine) options(v View, req *duetv1.QueryRequest) (view.Options, int, error) {
	fail := func(field, format string, args ...any) (view.Options, int, error) {
		return view.Options{}, 0, reason.Field(reason.ArgumentInvalid, field, format, args...)
	}
	limit := int(req.GetLimit())
	switch {
	case limit < 0:
		return fail("limit", "%d is below 0; 0 means %d", limit, DefaultRows)
	case limit > MaxRows:
		return fail("limit", "%d is more than the %d rows of one answer; narrow it by where or since", limit, MaxRows)
	case limit == 0:
		limit = DefaultRows
	}
	if len(req.GetGroupBy()) > maxNames || len(req.GetOrderBy()) > maxNames || len(req.GetParams()) > maxNames {
		return fail("group_by", "more than %d names in one request", maxNames)
	}
	for _, name := range slices.Concat(req.GetGroupBy(), req.GetOrderBy()) {
		if len(name) > 1000 || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			return fail("group_by", "%q is not the name of a column", clip(name))
		}
	}
	opts := view.Options{By: req.GetGroupBy(), Total: req.GetTotal(), Limit: limit + 1, OrderBy: orders(v, req.GetOrderBy())}
	used := map[string]bool{}
	for _, c := range []struct {
		field, text string
		dst         *string
	}{{"where", req.GetWhere(), &opts.Where}, {"having", req.GetHaving(), &opts.Having}} {
		if len(c.text) > maxText {
			return fail(c.field, "%d bytes; a condition has at most %d", len(c.text), maxText)
		}
		if !utf8.ValidString(c.text) || strings.ContainsRune(c.text, 0) {
			return fail(c.field, "must be UTF-8 without NUL")
		}
		text, err := bind(c.field, c.text, req.GetParams(), used)
		if err != nil {
			return view.Options{}, 0, err
		}
		if len(text) > maxBound {
			return fail("params", "%s has %d bytes with the values of its parameters; at most %d are allowed", c.field, len(text), maxBound)
		}
		*c.dst = text
	}
	for name := range req.GetParams() {
		if !paramName.MatchString(name) {
			return fail("params", "%q is not a name: letters, digits and _, up to 63 characters", clip(name))
		}
		if !used[name] {
			return fail("params", "$%s is in neither where nor having", name)
		}
	}
	var err error
	if opts.Since, err = instant(v, "since", req.GetSince()); err != nil {
		return view.Options{}, 0, err
	}
	if opts.Until, err = instant(v, "until", req.GetUntil()); err != nil {
		return view.Options{}, 0, err
	}
	if err := v.Compiled.CheckBounds(opts.Since, opts.Until); err != nil {
		return view.Options{}, 0, conditionError(err)
	}
	switch req.GetFormat() {
	case "", formatValues, formatObjects:
	default:
		return fail("format", "%q is not a form of rows; write %s or %s", clip(req.GetFormat()), formatValues, formatObjects)
	}
	return opts, limit, nil
}

// Forms of rows.
const (
	formatValues  = "VALUES"
	formatObjects = "OBJECTS"
)

// wallLayouts are times without an offset: the time key's own wall clock.
var wallLayouts = []string{time.DateOnly, "2006-01-02 15:04", "2006-01-02T15:04", time.DateTime, "2006-01-02T15:04:05"}

// instant parses a bound of the time key; "" is nil.
func instant(v View, field, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return &at, nil
	}
	for _, layout := range wallLayouts {
		if wall, err := time.Parse(layout, text); err == nil {
			at := v.Compiled.Instant(wall)
			return &at, nil
		}
	}
	return nil, reason.Field(reason.ArgumentInvalid, field, "%q is not a time; write a date such as 2026-11-21, a date and a time such as 2026-11-21 14:00, or RFC 3339 such as 2026-11-21T14:00:00Z", clip(text))
}

// orders parses "column", "column asc" and "column desc". A column's name may
// contain spaces. The compiler checks that the column exists.
func orders(v View, terms []string) []view.Order {
	var out []view.Order
	for _, term := range terms {
		o := view.Order{Column: strings.TrimSpace(term)}
		whole := slices.ContainsFunc(v.Compiled.Columns, func(c view.Column) bool { return strings.EqualFold(c.Name, o.Column) })
		if i := strings.LastIndexByte(o.Column, ' '); i > 0 && !whole {
			switch strings.ToLower(o.Column[i+1:]) {
			case "desc":
				o = view.Order{Column: strings.TrimSpace(o.Column[:i]), Desc: true}
			case "asc":
				o = view.Order{Column: strings.TrimSpace(o.Column[:i])}
			}
		}
		out = append(out, o)
	}
	return out
}

func inexact(cols []view.Column) []string {
	var names []string
	for _, c := range cols {
		if !c.Exact {
			names = append(names, c.Name)
		}
	}
	return names
}

// columns describes the columns of an answer.
func columns(p *project.View, cols []view.Column) []*duetv1.Column {
	out := make([]*duetv1.Column, len(cols))
	for i, c := range cols {
		role := duetv1.ColumnRole_COLUMN_ROLE_MEASURE
		switch c.Role {
		case view.Key:
			role = duetv1.ColumnRole_COLUMN_ROLE_KEY
		case view.TimeKey:
			role = duetv1.ColumnRole_COLUMN_ROLE_TIME
		case view.Attribute:
			role = duetv1.ColumnRole_COLUMN_ROLE_ATTRIBUTE
		}
		out[i] = &duetv1.Column{Name: c.Name, Type: c.Type, Role: role, Unit: p.Units[c.Name], Exact: c.Exact, Bucket: c.Bucket}
	}
	return out
}
