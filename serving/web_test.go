package serving

import (
	"flag"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas/duetv1"
	"duet/schemas/project"
	"duet/serving/reason"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What a browser can be made to send by another site is refused.
func TestOtherSitesAreRefused(t *testing.T) {
	r := opened(t, nil)
	const run = "/duet.v1.BatchService/ListRuns"
	for name, c := range map[string]struct {
		header http.Header
		want   int
	}{
		"no browser":                    {nil, 200},
		"localhost":                     {http.Header{"Host": {"localhost:7400"}}, 200},
		"IPv6 loopback":                 {http.Header{"Host": {"[::1]:7400"}}, 200},
		"a name that points here":       {http.Header{"Host": {"evil.example"}}, 403},
		"a name that ends so":           {http.Header{"Host": {"localhost.evil.example:7400"}}, 403},
		"another address":               {http.Header{"Host": {"192.168.0.7:7400"}}, 403},
		"another origin":                {http.Header{"Origin": {"http://evil.example"}}, 403},
		"another port":                  {http.Header{"Origin": {"http://127.0.0.1:1"}}, 403},
		"another site":                  {http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
		"our own page":                  {http.Header{"Sec-Fetch-Site": {"same-origin"}}, 200},
		"an origin that hides":          {http.Header{"Origin": {"null"}}, 403},
		"a form's content type, hidden": {http.Header{"Origin": {"null"}, "Content-Type": {"text/plain"}}, 403},
	} {
		code, body := r.post(t, run, "{}", c.header)
		if code != c.want {
			t.Errorf("%s: %d %s", name, code, body)
		}
		if code == 403 && connectReason(t, body) != string(reason.OriginRefused) {
			t.Errorf("%s: %s", name, body)
		}
	}
}

func TestOnlyLoopbackByDefault(t *testing.T) {
	shop := &project.Project{Name: "shop"}
	for addr, good := range map[string]bool{
		"127.0.0.1:0": true, "localhost:0": true, "[::1]:0": true, "127.8.9.1:1": true,
		":7400": false, "0.0.0.0:7400": false, "192.168.1.1:7400": false, "[::]:1": false, "example.com:1": false, "localhost.evil:1": false,
	} {
		for _, cfg := range []Config{{HTTP: addr, Project: shop}, {GRPC: addr, Project: shop}} {
			_, err := New(cfg)
			if (err == nil) != good {
				t.Errorf("%s: %v", addr, err)
			}
			if err != nil && !strings.Contains(err.Error(), "TLS") {
				t.Errorf("%s: %v", addr, err)
			}
			cfg.AllowRemote = true
			if _, err := New(cfg); err != nil {
				t.Errorf("%s, allowed: %v", addr, err)
			}
		}
	}
	_, err := New(Config{GRPC: "nothing", HTTP: "0.0.0.0:1"})
	for _, want := range []string{"--grpc nothing", "--http 0.0.0.0:1", "Project"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// testStatus is what a platform that runs well says.
func testStatus() *duetv1.GetStatusResponse {
	at := []*duetv1.Position{{Ordinal: 1, Sequence: 1000}}
	return &duetv1.GetStatusResponse{
		Version: "v1.2.3", Project: "shop", Health: duetv1.Health_HEALTH_OK,
		Log:  &duetv1.LogStatus{UsedBytes: 3e6, LimitBytes: 8e9},
		Live: &duetv1.LiveStatus{Through: at, CaughtUp: true},
		Batch: &duetv1.BatchStatus{
			Current:     &duetv1.Generation{Number: 7, Cut: at, PublishTime: timestamppb.New(testNow.Add(-3 * time.Minute))},
			LastVerdict: "equal: 3 views, 50 groups", LastEqual: true,
		},
		Archive:               &duetv1.ArchiveStatus{Files: 2, Bytes: 4096, LagMessages: 12},
		Streams:               []*duetv1.StreamStatus{{Name: "orders", Account: &duetv1.Account{Received: 1_234_567, Accepted: 1_234_500, Duplicate: 60, Rejected: 7}}},
		Views:                 []*duetv1.ViewStatus{{Name: "sales", PartialRows: 50}},
		StoreMemoryBytes:      64e6,
		StoreMemoryLimitBytes: 4e9,
	}
}

func TestPagesAreGolden(t *testing.T) {
	r := opened(t, nil)
	p := newPages(r.cfg, r.api)
	frame := func() page {
		out := page{Project: "shop", Time: testNow.Format(time.DateTime), Refresh: refresh}
		p.health(&out, testStatus(), testNow)
		return out
	}
	home, one := frame(), frame()
	for _, name := range []string{"busy", "countries", "everything", "sales", "small"} {
		v, err := r.api.platform.Load().engine.Describe(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		home.Views = append(home.Views, p.card(t.Context(), v.GetView(), homeRows))
		if name == "countries" {
			c := p.card(t.Context(), v.GetView(), viewRows)
			c.Alone = true
			one.One = &c
		}
	}
	for file, content := range map[string]page{"home.html": home, "view.html": one} {
		w := httptest.NewRecorder()
		p.write(w, 200, content)
		body := w.Body.String()
		golden := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(golden, []byte(body), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), body); diff != "" {
			t.Errorf("%s (go test ./serving -update rewrites it):\n%s", file, diff)
		}
	}
}

func TestPagesAreServed(t *testing.T) {
	r := opened(t, nil)
	for path, want := range map[string][]string{
		"/":                {"well", "v1.2.3", "United Kingdom", "no generation yet", "orders events"},
		"/views/countries": {"first_sale", "Definition", "FROM orders GROUP BY country"},
		"/style.css":       {"prefers-color-scheme"},
	} {
		code, body := r.get(t, path)
		for _, w := range want {
			if code != 200 || !strings.Contains(body, w) || strings.Contains(body, "<script") {
				t.Errorf("%s: %d, no %q or a script in %s", path, code, w, body)
			}
		}
	}
	for _, path := range []string{"/views/nosuch", "/views/%2e%2e", "/nosuch"} {
		if code, _ := r.get(t, path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
}

func TestPageSaysWhatIsWrong(t *testing.T) {
	r := opened(t, nil)
	r.fixture.Poison()
	r.must(r.runner.Pause("<b>lunch</b>"))
	_, body := r.get(t, "/")
	for _, want := range []string{"view small is suspended", "needs attention", "the schedule is paused (&lt;b&gt;lunch&lt;/b&gt;)", "United Kingdom"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	r2 := listening(t, nil)
	if _, body := r2.get(t, "/"); !strings.Contains(body, "catching up, 0 %: opening the log") {
		t.Errorf("catching up: %s", body)
	}
}

func TestMetrics(t *testing.T) {
	r := opened(t, nil)
	r.run()
	r.post(t, "/v1/append/orders", "{}\n{}", nil)
	r.must(r.live.Wait(t.Context(), r.log.Last()))
	r.post(t, "/duet.v1.ViewService/Query", `{"view":"nosuch"}`, nil)
	r.post(t, "/duet.v1.ViewService/Query", `{}`, http.Header{"Origin": {"http://evil.example"}})
	r.cfg.Metrics.LiveBatch(10, 0)
	r.cfg.Metrics.RunEnded(true, "published", 0, 3)
	r.cfg.Metrics.Switched(0)
	code, body := r.get(t, "/metrics")
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	for _, want := range []string{
		`duet_appended_events_total{outcome="appended",stream="orders"} 2`,
		`duet_calls_total{code="NotFound",method="/duet.v1.ViewService/Query"} 1`,
		`duet_http_refused_total{reason="ORIGIN_REFUSED"} 1`,
		`duet_events{stream="orders",verdict="rejected"} 2`,
		`duet_generation 1`, `duet_ready 1`, `duet_archive_lag_messages 2`, `duet_live_lag_messages 0`,
		`duet_reconciliation_equal 1`, `duet_reconciliation_differences_total 3`,
		`duet_batch_runs_total{kind="full",outcome="published"} 1`, `duet_view_rows{view="sales"} 0`, `duet_live_events_total 10`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s in %s", want, body)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^duet_calls_total.*method="([^"]*)"`).FindAllStringSubmatch(body, -1) {
		if _, ok := methods[m[1]]; !ok {
			t.Errorf("a method that does not exist: %s", m[1])
		}
	}
}

func TestPageBeforeTheFirstGeneration(t *testing.T) {
	proof := &duetv1.Proof{LiveThrough: []*duetv1.Position{{Ordinal: 1, Sequence: 5}}}
	if got := noteText(proof); got != "no generation yet, live through 1:5" {
		t.Error(got)
	}
}

// Digits are grouped for measures only, the numbers of a column have one scale,
// and NULL is a dash.
func TestColumnsOfThePage(t *testing.T) {
	dec := func(s string) *duetv1.Value {
		return &duetv1.Value{Kind: &duetv1.Value_DecimalValue{DecimalValue: s}}
	}
	number := func(n int64) *duetv1.Value { return &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: n}} }
	double := func(f float64) *duetv1.Value {
		return &duetv1.Value{Kind: &duetv1.Value_DoubleValue{DoubleValue: f}}
	}
	local := func(s string) *duetv1.Value { return &duetv1.Value{Kind: &duetv1.Value_LocalValue{LocalValue: s}} }
	const key, measure, at = duetv1.ColumnRole_COLUMN_ROLE_KEY, duetv1.ColumnRole_COLUMN_ROLE_MEASURE, duetv1.ColumnRole_COLUMN_ROLE_TIME
	for _, c := range []struct {
		column *duetv1.Column
		values []*duetv1.Value
		want   string
	}{
		{&duetv1.Column{Role: key, Type: "BIGINT"}, []*duetv1.Value{number(2026), number(17850), {}}, "2026|17850|–"},
		{&duetv1.Column{Role: key, Type: "DECIMAL(18,0)"}, []*duetv1.Value{dec("1234567")}, "1234567"},
		{&duetv1.Column{Role: measure, Type: "BIGINT"}, []*duetv1.Value{number(2026), number(-1234567), {}}, "2,026|-1,234,567|–"},
		{&duetv1.Column{Role: measure, Type: "DECIMAL(38,4)"}, []*duetv1.Value{dec("1234.5000"), dec("0.1250"), dec("-7.0000")}, "1,234.500|0.125|-7.000"},
		{&duetv1.Column{Role: measure, Type: "DECIMAL(38,4)"}, []*duetv1.Value{dec("4.0000"), dec("1000.0000")}, "4.00|1,000.00"},
		{&duetv1.Column{Role: measure, Type: "DOUBLE"}, []*duetv1.Value{double(0.5), double(1234.125), double(math.NaN())}, "0.500|1,234.125|NaN"},
		{&duetv1.Column{Role: at, Type: "TIMESTAMP", Bucket: "1 hour"}, []*duetv1.Value{local("2026-11-21T08:00:00")}, "2026-11-21 08:00"},
		{&duetv1.Column{Role: at, Type: "TIMESTAMP", Bucket: "1 month"}, []*duetv1.Value{local("2026-11-01T00:00:00")}, "2026-11-01"},
	} {
		var got []string
		for _, shown := range show(c.column, c.values) {
			got = append(got, shown.Text)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("got %s, want %s", strings.Join(got, "|"), c.want)
		}
	}
}
