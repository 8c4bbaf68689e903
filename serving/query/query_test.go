package query_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"duet/internal/base/durable"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/query/querytest"
	"duet/serving/reason"
	"duet/serving/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table prints an answer, a row a line.
func table(r *duetv1.QueryResponse) []string {
	var out []string
	for _, row := range r.GetRows() {
		var cells []string
		for _, v := range row.GetValues() {
			cells = append(cells, query.Text(v))
		}
		out = append(out, strings.Join(cells, "|"))
	}
	return out
}

// plain runs a SELECT over the oracle's events and prints it like table.
func plain(t *testing.T, f *querytest.Fixture, text string) []string {
	t.Helper()
	rows, err := f.Oracle.Query(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for rows.Next() {
		cells, ptrs := make([]any, len(types)), make([]any, len(types))
		for i := range cells {
			ptrs[i] = &cells[i]
		}
		if err := rows.Scan(ptrs...); err != nil {
			t.Fatal(err)
		}
		var texts []string
		for i, c := range cells {
			v, err := query.ToValue(c, types[i].DatabaseTypeName())
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, query.Text(v))
		}
		out = append(out, strings.Join(texts, "|"))
	}
	return out
}

func TestAnswersEqualTheSelect(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	const hour = "time_bucket(INTERVAL '1 hour', sold_at)"
	for name, c := range map[string]struct {
		req  *duetv1.QueryRequest
		want string
	}{
		"every key": {
			&duetv1.QueryRequest{View: "sales", OrderBy: []string{"hour", "country"}},
			"SELECT " + hour + " AS hour, country, sum(quantity * price) AS revenue, count(*), sum(price*10000)::BIGINT / (count(*) * 10000), sum(quantity), sum(weight) FROM events GROUP BY ALL ORDER BY hour, country NULLS LAST",
		},
		"roll-up": {
			&duetv1.QueryRequest{View: "sales", GroupBy: []string{"country"}, OrderBy: []string{"revenue desc"}, Limit: 3},
			"SELECT country, sum(quantity * price) AS revenue, count(*), sum(price*10000)::BIGINT / (count(*) * 10000), sum(quantity), sum(weight) FROM events GROUP BY ALL ORDER BY revenue DESC LIMIT 3",
		},
		"total": {
			&duetv1.QueryRequest{View: "countries", Total: true},
			"SELECT sum(quantity * price), min(sold_at) FROM events",
		},
		"no keys": {
			&duetv1.QueryRequest{View: "everything"},
			"SELECT count(*), sum(price) FROM events",
		},
		"where and having": {
			&duetv1.QueryRequest{View: "sales", GroupBy: []string{"hour"}, Where: "country IN $names OR country IS NULL", Having: "lines > $n", OrderBy: []string{"hour desc"},
				Params: map[string]*duetv1.Value{
					"names": {Kind: &duetv1.Value_ListValue{ListValue: &duetv1.ListValue{Values: []*duetv1.Value{
						{Kind: &duetv1.Value_StringValue{StringValue: "Côte d'Ivoire"}}, {Kind: &duetv1.Value_StringValue{StringValue: "France"}}}}}},
					"n": {Kind: &duetv1.Value_IntValue{IntValue: 50}},
				}},
			"SELECT " + hour + " AS hour, sum(quantity * price), count(*), sum(price*10000)::BIGINT / (count(*) * 10000), sum(quantity), sum(weight) FROM events WHERE country IN ('France', 'Côte d''Ivoire') OR country IS NULL GROUP BY ALL HAVING count(*) > 50 ORDER BY hour DESC",
		},
		"buckets that begin in a time range": {
			&duetv1.QueryRequest{View: "sales", GroupBy: []string{"hour"}, Since: "2026-11-21 01:00", Until: "2026-11-21T04:00:00+01:00", OrderBy: []string{"hour"}},
			"SELECT " + hour + " AS hour, sum(quantity * price), count(*), sum(price*10000)::BIGINT / (count(*) * 10000), sum(quantity), sum(weight) FROM events WHERE sold_at >= TIMESTAMP '2026-11-21 01:00:00' AND sold_at < TIMESTAMP '2026-11-21 03:00:00' GROUP BY ALL ORDER BY hour",
		},
		"as published by an earlier generation": {
			&duetv1.QueryRequest{View: "countries", AsOfGeneration: 1, OrderBy: []string{"country"}},
			"SELECT country, sum(quantity * price), min(sold_at) FROM events WHERE _duet_at & 65535 <= 251 GROUP BY ALL ORDER BY country NULLS LAST",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := e.Query(t.Context(), c.req)
			if err != nil {
				t.Fatal(err)
			}
			want := plain(t, f, c.want)
			if strings.Join(table(got), "\n") != strings.Join(want, "\n") {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(table(got), "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestProofSaysWhatTheAnswerIsMadeOf(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	got, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	p := got.GetProof()
	if p.GetGeneration() != 2 || len(p.GetCut()) != 1 || p.GetCut()[0].GetSequence() != f.Catalog.Current().Cut.Position().Sequence() || p.GetLiveThrough()[0].GetSequence() != f.Last().Sequence() ||
		p.GetLiveThrough()[0].GetIncarnation() != "querytest" || p.GetDefinition() == "" || p.GetNewestEventTime().AsTime().Year() != 2026 {
		t.Fatalf("%v", p)
	}
	if len(p.GetInexactColumns()) != 1 || p.GetInexactColumns()[0] != "weight" {
		t.Fatalf("inexact: %v", p.GetInexactColumns())
	}
	if !got.GetTruncated() || len(got.GetRows()) != 2 {
		t.Fatalf("%d rows, truncated %v", len(got.GetRows()), got.GetTruncated())
	}
	if u := got.GetColumns()[2].GetUnit(); u != "GBP" {
		t.Fatalf("unit %q", u)
	}
	if b := got.GetColumns()[0]; b.GetBucket() != "1 hour" || b.GetRole() != duetv1.ColumnRole_COLUMN_ROLE_TIME {
		t.Fatalf("%v", b)
	}
	// The proof of an answer as of a generation ends at its cut, and the token
	// of either is good as not_before.
	old, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", AsOfGeneration: 1})
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(old.GetProof().GetCut()[0], old.GetProof().GetLiveThrough()[0]) || old.GetProof().GetGeneration() != 1 {
		t.Fatalf("%v", old.GetProof())
	}
	for _, token := range []string{p.GetToken(), old.GetProof().GetToken()} {
		if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", NotBefore: token}); err != nil {
			t.Fatal(err)
		}
	}
}

// wants fails unless err refuses for that reason, and about that field if one is named.
func wants(t *testing.T, err error, r reason.Reason, field string) {
	t.Helper()
	var e *reason.Error
	if !errors.As(err, &e) || e.Reason != r {
		t.Fatalf("got %v, want %s", err, r)
	}
	if field != "" && (len(e.Violations) != 1 || e.Violations[0].Field != field) {
		t.Fatalf("got violations %v, want one of %s", e.Violations, field)
	}
}

func TestNotBeforeWaitsUntilTheDeadline(t *testing.T) {
	f := querytest.New(t)
	next := f.Last() + 1
	e := f.Engine(func(c *query.Config) { c.Last = func() schemas.Position { return next } })
	later := query.Token{Through: schemas.NewCut(querytest.Incarnation, next)}.String()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := e.Query(ctx, &duetv1.QueryRequest{View: "sales", NotBefore: later})
	wants(t, err, reason.DeadlineOver, "")
	_, err = e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", NotBefore: query.Token{Generation: 8}.String()})
	wants(t, err, reason.CatchingUp, "")
	_, err = e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", NotBefore: "AAAA"})
	wants(t, err, reason.TokenInvalid, "not_before")
}

// A statement that DuckDB does not interrupt in time is abandoned: its call ends
// with the deadline, and the next call gets its slot.
func TestAStatementThatRunsOnIsAbandoned(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(func(c *query.Config) { c.Concurrent, c.Long = 1, 2 })
	stuck, release := f.Stuck("sales")
	abandon := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := e.Query(ctx, stuck)
		wants(t, err, reason.DeadlineOver, "")
	}
	for n := range 2 {
		abandon()
		if got := e.Abandoned(); got != n+1 {
			t.Fatalf("%d statements are abandoned, want %d", got, n+1)
		}
		if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "everything"}); err != nil {
			t.Fatal(err)
		}
	}
	// The third keeps its slot until it ends.
	abandon()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := e.Query(ctx, &duetv1.QueryRequest{View: "everything"})
	wants(t, err, reason.DeadlineOver, "")
	release()
	if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "everything"}); err != nil {
		t.Fatal(err)
	}

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.Query(gone, &duetv1.QueryRequest{View: "sales"})
	wants(t, err, reason.Cancelled, "")
}

// A statement that runs for long gives its slot to the next call.
func TestLongStatementsHoldNobodyUp(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(func(c *query.Config) { c.Concurrent, c.Long, c.Overtime = 1, 1, 20*time.Millisecond })
	stuck, release := f.Stuck("sales")
	ended := make(chan error, 1)
	go func() {
		_, err := e.Query(t.Context(), stuck)
		ended <- err
	}()
	for e.Running() == 0 {
		runtime.Gosched()
	}
	if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "everything"}); err != nil {
		t.Fatal(err)
	}
	release()
	var damage *durable.DamageError
	if err := <-ended; !errors.As(err, &damage) {
		t.Errorf("the stuck query: %v", err)
	}
}

func TestPositionsBeyondTheLogAreRefused(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	beyond := query.Token{Through: schemas.NewCut(querytest.Incarnation, f.Last()+1)}.String()
	_, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", NotBefore: beyond})
	wants(t, err, reason.TokenInvalid, "not_before")
	if !strings.Contains(err.Error(), f.Last().String()) {
		t.Error(err)
	}
}

// Calls that wait for a position are bounded; others do not wait for them.
func TestWaitingCallsAreBounded(t *testing.T) {
	f := querytest.New(t)
	next, entered := f.Last()+1, make(chan struct{})
	e := f.Engine(func(c *query.Config) {
		c.Concurrent, c.Waiting = 1, 1
		c.Last = func() schemas.Position { return next }
		c.Wait = func(ctx context.Context, _ schemas.Position) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
	})
	token := query.Token{Through: schemas.NewCut(querytest.Incarnation, next)}.String()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := e.Query(ctx, &duetv1.QueryRequest{View: "sales", NotBefore: token})
		ended <- err
	}()
	<-entered
	_, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", NotBefore: token})
	wants(t, err, reason.Busy, "")
	if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales"}); err != nil {
		t.Error(err)
	}
	cancel()
	wants(t, <-ended, reason.Cancelled, "")
}

func TestAnswersAreBounded(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(func(c *query.Config) { c.MaxBytes = 500 })
	_, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales"})
	wants(t, err, reason.ResultTooLarge, "")
	for _, n := range []int32{-1, query.MaxRows + 1} {
		_, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", Limit: n})
		wants(t, err, reason.ArgumentInvalid, "limit")
	}
}

func TestOneAtATimeWaitsForItsPlace(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(func(c *query.Config) { c.Concurrent = 1 })
	errs := make(chan error, 8)
	for range 8 {
		go func() {
			_, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "everything"})
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	for name, c := range map[string]struct {
		req   *duetv1.QueryRequest
		want  reason.Reason
		field string
	}{
		"unknown view":              {&duetv1.QueryRequest{View: "nosuch"}, reason.ViewUnknown, ""},
		"no view":                   {&duetv1.QueryRequest{}, reason.ArgumentInvalid, "view"},
		"view that is no name":      {&duetv1.QueryRequest{View: "../sales"}, reason.ArgumentInvalid, "view"},
		"unknown key":               {&duetv1.QueryRequest{View: "sales", GroupBy: []string{"town"}}, reason.ArgumentInvalid, "group_by"},
		"measure as key":            {&duetv1.QueryRequest{View: "sales", GroupBy: []string{"revenue"}}, reason.ArgumentInvalid, "group_by"},
		"key twice":                 {&duetv1.QueryRequest{View: "sales", GroupBy: []string{"hour", "hour"}}, reason.ArgumentInvalid, "group_by"},
		"total and keys":            {&duetv1.QueryRequest{View: "sales", GroupBy: []string{"hour"}, Total: true}, reason.ArgumentInvalid, "total"},
		"order by nothing":          {&duetv1.QueryRequest{View: "sales", OrderBy: []string{"town desc"}}, reason.ArgumentInvalid, "order_by"},
		"where over a measure":      {&duetv1.QueryRequest{View: "sales", Where: "revenue > 1"}, reason.ConditionInvalid, "where"},
		"where that does not parse": {&duetv1.QueryRequest{View: "sales", Where: "country ="}, reason.ConditionInvalid, "where"},
		"having over a lost key":    {&duetv1.QueryRequest{View: "sales", Total: true, Having: "country = 'x'"}, reason.ConditionInvalid, "having"},
		"parameter without value":   {&duetv1.QueryRequest{View: "sales", Where: "country = $x"}, reason.ConditionInvalid, "where"},
		"value without parameter":   {&duetv1.QueryRequest{View: "sales", Params: map[string]*duetv1.Value{"x": {}}}, reason.ArgumentInvalid, "params"},
		"condition that raises":     {&duetv1.QueryRequest{View: "sales", Where: "CAST(country AS INTEGER) = 1"}, reason.ConditionInvalid, "where"},
		"since without time key":    {&duetv1.QueryRequest{View: "everything", Since: "2026-11-21"}, reason.ArgumentInvalid, "since"},
		"since that is no time":     {&duetv1.QueryRequest{View: "sales", Since: "yesterday"}, reason.ArgumentInvalid, "since"},
		"until inside a bucket":     {&duetv1.QueryRequest{View: "sales", Until: "2026-11-21 00:30"}, reason.ArgumentInvalid, "until"},
		"parameters without bound":  {&duetv1.QueryRequest{View: "sales", Where: "levenshtein(country, $x) > 0", Params: map[string]*duetv1.Value{"x": {Kind: &duetv1.Value_StringValue{StringValue: strings.Repeat("x", 1<<20)}}}}, reason.ArgumentInvalid, "params"},
		"unknown form of rows":      {&duetv1.QueryRequest{View: "sales", Format: "objects"}, reason.ArgumentInvalid, "format"},
		"since outside time":        {&duetv1.QueryRequest{View: "sales", Since: "9999-01-01"}, reason.ArgumentInvalid, "since"},
		"generation of another SQL": {&duetv1.QueryRequest{View: "everything", AsOfGeneration: 1}, reason.DefinitionDiffers, ""},
		"as of and not before":      {&duetv1.QueryRequest{View: "sales", AsOfGeneration: 1, NotBefore: "x"}, reason.ArgumentInvalid, "not_before"},
		"long condition":            {&duetv1.QueryRequest{View: "sales", Where: strings.Repeat(" ", 1<<20)}, reason.ArgumentInvalid, "where"},
		"NUL":                       {&duetv1.QueryRequest{View: "sales", Where: "country = 'a\x00'"}, reason.ArgumentInvalid, "where"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.Query(t.Context(), c.req)
			wants(t, err, c.want, c.field)
		})
	}
}

// Whatever a condition tries, it is refused, and nothing is read or
// written.
func TestHostileConditions(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	dir := t.TempDir()
	canary := filepath.Join(dir, "canary.csv")
	if err := os.WriteFile(canary, []byte("secret\n42\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	hostile := []string{
		"(SELECT count(*) FROM read_csv('%[1]s')) > 0", "(SELECT count(*) FROM '%[1]s') > 0", `EXISTS (FROM "%[1]s")`,
		"country IN (SELECT secret::VARCHAR FROM read_csv_auto('%[1]s'))", "country = (SELECT content FROM read_text('%[1]s'))",
		"country = (SELECT content FROM read_blob('%[1]s'))", "EXISTS (SELECT * FROM glob('/*'))", "EXISTS (SELECT 1 FROM duckdb_settings())",
		"EXISTS (SELECT 1 FROM information_schema.tables)", "EXISTS (SELECT 1 FROM duckdb_secrets())", "EXISTS (FROM events)",
		"country = getenv('HOME')", "country = current_setting('threads')", "getvariable('x') IS NULL", "country = current_user", "country = version()",
		"1 = 1; COPY (SELECT 1) TO '%[2]s'", "1 = 1; ATTACH '%[2]s' AS a", "1 = 1; INSTALL httpfs", "1 = 1; SET threads = 64", "1 = 1; DROP TABLE events",
		"1 = 1) ; DELETE FROM events --", "1 = 1) UNION ALL SELECT 1 --", "1=1 /* ", "1=1 --", "1 = 1) OR (1 = 1", "true GROUP BY 1", "true ORDER BY 1", "true LIMIT 1",
		"country LIKE '%%' AND rowid = 1", "_duet_at > 0", "k0 IS NULL", "events.price > 1", "random() < 0.5", "now() > hour", "current_date > hour",
		"count(*) > 1", "sum(1) > 0", "row_number() OVER () = 1", "list_aggregate([1], 'sum') = 1", "nextval('s') = 1", "pragma_version() IS NULL",
		"country = ANY (SELECT 'a')", "(VALUES (1)) = 1", "COLUMNS('.*') = 1", "* = 1", "country COLLATE nocase = 'x'", "unnest([1]) = 1", "generate_series(1, 1000000000) IS NULL",
		"repeat('x', 1000000000) = country", "(SELECT 1 FROM range(100000000000)) = 1", "x'41' = country", "query('SELECT 1') = 1", "query_table('events') IS NULL",
		"parse_path('/etc/passwd') IS NULL AND EXISTS (FROM sniff_csv('%[1]s'))", "http_get('http://169.254.169.254/') = ''", "E'\\'' = country OR EXISTS (FROM '%[1]s')",
		"$$a$$ = country OR EXISTS (FROM '%[1]s')", "~country", "DESCRIBE", "EXPLAIN SELECT 1", "WITH x AS (SELECT 1) SELECT 1", "", // the last is no condition
	}
	for _, h := range hostile[:len(hostile)-1] {
		text := fmt.Sprintf(h, canary, out)
		for _, req := range []*duetv1.QueryRequest{{View: "sales", Where: text}, {View: "sales", Having: text}} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			resp, err := e.Query(ctx, req)
			cancel()
			var known *reason.Error
			if err == nil {
				t.Errorf("%s was answered: %d rows", text, len(resp.GetRows()))
			} else if !errors.As(err, &known) || known.Reason != reason.ConditionInvalid {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a file was written")
	}
	if got := plain(t, f, "SELECT count(*) FROM events"); got[0] != fmt.Sprint(querytest.Rows) {
		t.Errorf("events: %v", got)
	}
}

func TestVerifyFindsWhatTheMergeDoesNot(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	for _, name := range e.Names() {
		got, err := e.Verify(t.Context(), &duetv1.VerifyRequest{View: name, Explain: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !got.GetEqual() || got.GetGroupsDifferent() != 0 || got.GetGroups() == 0 || len(got.GetDifferences()) != 0 {
			t.Errorf("%s: %v", name, got)
		}
		if got.GetArchivedEvents() != querytest.Rows*3/4 || got.GetTailEvents() != querytest.Rows/4 {
			t.Errorf("%s: %d archived, %d in the tail", name, got.GetArchivedEvents(), got.GetTailEvents())
		}
		if len(got.GetFiles()) != 3 || got.GetSql() == "" {
			t.Errorf("%s: explain: %v, %s", name, got.GetFiles(), got.GetSql())
		}
	}
	f.Forge()
	for _, name := range e.Names() {
		got, err := e.Verify(t.Context(), &duetv1.VerifyRequest{View: name, Limit: 1})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.GetEqual() || got.GetGroupsDifferent() != 1 || len(got.GetDifferences()) != 1 {
			t.Fatalf("%s: %v", name, got)
		}
		d := got.GetDifferences()[0]
		if d.GetMerged() == nil || d.GetRecomputed() == nil || proto.Equal(d.GetMerged(), d.GetRecomputed()) {
			t.Errorf("%s: %v", name, d)
		}
	}
	_, err := e.Verify(t.Context(), &duetv1.VerifyRequest{View: "sales", Limit: 5000})
	wants(t, err, reason.ArgumentInvalid, "limit")
	got, err := e.Verify(t.Context(), &duetv1.VerifyRequest{View: "sales", ExplainOnly: true})
	if err != nil || got.GetGroups() != 0 || got.GetSql() == "" {
		t.Errorf("explain only: %v, %v", got, err)
	}
}

func TestViewsAreDescribedAlsoWhenTheyCannotAnswer(t *testing.T) {
	f := querytest.Open(t)
	f.Add(10)
	f.Publish(f.Cut(), "sales", "small")
	f.Poison()
	e := f.Engine(nil)
	views, err := e.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	problems := map[string]string{}
	for _, v := range views {
		problems[v.GetName()] = v.GetProblem()
	}
	if len(views) != 5 || problems["sales"] != "" || !strings.Contains(problems["countries"], "rebuil") || !strings.Contains(problems["small"], "suspended") {
		t.Fatal(problems)
	}
	for name, answers := range map[string]bool{"sales": true, "countries": false, "small": false} {
		d, err := e.Describe(t.Context(), name)
		v, proof := d.GetView(), d.GetProof()
		if err != nil || v.GetStream() != "orders" || v.GetProblem() != problems[name] || (proof != nil) != answers || answers && proof.GetGeneration() != 1 {
			t.Error(name, v, proof, err)
		}
	}
	var rebuilding *store.RebuildingError
	if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "countries"}); !errors.As(err, &rebuilding) {
		t.Error(err)
	}
	var suspended *store.SuspendedError
	if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "small"}); !errors.As(err, &suspended) {
		t.Error(err)
	}
}

// A bound inside a bucket is refused with the nearest that are not.
func TestBoundsInsideABucketAreRefused(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	for bound, want := range map[string]string{
		"2026-11-21 10:30":          "since: 2026-11-21 10:30:00 lies inside the bucket of 1 hour that begins at 2026-11-21 10:00:00. write 2026-11-21 10:00:00 or 2026-11-21 11:00:00",
		"2026-11-21T00:00:00+05:30": "since: 2026-11-20 18:30:00 lies inside the bucket of 1 hour that begins at 2026-11-20 18:00:00. write 2026-11-20 18:00:00 or 2026-11-20 19:00:00",
		"2026-11-21T23:59:59Z":      "since: 2026-11-21 23:59:59 lies inside the bucket of 1 hour that begins at 2026-11-21 23:00:00. write 2026-11-21 23:00:00 or 2026-11-22",
	} {
		_, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", Since: bound})
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", bound, err)
		}
	}
	for _, bound := range []string{"2026-11-21", "2026-11-21 10:00", "2026-11-21T10:00", "2026-11-21T10:00:00", "2026-11-21T10:00:00Z", "2026-11-21T10:00:00+01:00"} {
		if _, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "sales", Since: bound}); err != nil {
			t.Errorf("%s: %v", bound, err)
		}
	}
}

func TestNamesThatAreNearlyRight(t *testing.T) {
	e := querytest.Open(t).Engine(nil)
	_, err := e.Query(t.Context(), &duetv1.QueryRequest{View: "slaes"})
	if err == nil || !strings.Contains(err.Error(), "did you mean sales?") {
		t.Error(err)
	}
}

// An answer says what its reader could misread.
func TestNotes(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	for name, c := range map[string]struct {
		req  *duetv1.QueryRequest
		want string
	}{
		"rows":             {&duetv1.QueryRequest{View: "sales"}, ""},
		"no row":           {&duetv1.QueryRequest{View: "sales", Since: "2027-01-01"}, "no row meets the condition; the newest event of orders is of 2026-11-21 08:16:40"},
		"no row by having": {&duetv1.QueryRequest{View: "sales", Having: "lines > 1000000"}, "no row meets the condition; the newest event of orders is of 2026-11-21 08:16:40"},
		"having":           {&duetv1.QueryRequest{View: "busy"}, ""},
		"having, rolled up": {&duetv1.QueryRequest{View: "busy", Total: true},
			"the HAVING of view busy is applied after the rows are rolled up: it filters the rows of this answer, not those of the view"},
	} {
		got, err := e.Query(t.Context(), c.req)
		if err != nil || strings.Join(got.GetNotes(), "; ") != c.want {
			t.Errorf("%s: %v, %v", name, got.GetNotes(), err)
		}
	}
}

func TestRowsByName(t *testing.T) {
	f := querytest.New(t)
	e := f.Engine(nil)
	req := &duetv1.QueryRequest{View: "sales", OrderBy: []string{"hour", "country"}, Limit: 5, Where: "country IS NULL OR country = 'France'"}
	rows, err := e.Query(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	req.Format = "OBJECTS"
	byName, err := e.Query(t.Context(), req)
	if err != nil || len(byName.GetRows()) != 0 || len(byName.GetObjects()) != 5 || !byName.GetTruncated() {
		t.Fatal(byName, err)
	}
	for i, o := range byName.GetObjects() {
		for j, c := range rows.GetColumns() {
			want, got := query.Text(rows.GetRows()[i].GetValues()[j]), o.GetFields()[c.GetName()]
			text := got.GetStringValue()
			if _, ok := got.GetKind().(*structpb.Value_NumberValue); ok {
				text = strconv.FormatFloat(got.GetNumberValue(), 'g', -1, 64)
			}
			if text != want {
				t.Errorf("%s: %v, want %s", c.GetName(), got, want)
			}
		}
	}
}
