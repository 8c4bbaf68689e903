package serving

import (
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"duet/schemas/duetv1"
	"duet/serving/reason"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What a browser can be made to send by another site is refused.
func TestOtherSitesAreRefused(t *testing.T) {
	r := opened(t, nil)
	const run = "/duet.v1.BatchService/StartRun"
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

func TestOnlyLoopbackUnlessTold(t *testing.T) {
	for addr, good := range map[string]bool{
		"127.0.0.1:0": true, "localhost:0": true, "[::1]:0": true, "127.8.9.1:1": true,
		":7400": false, "0.0.0.0:7400": false, "192.168.1.1:7400": false, "[::]:1": false, "example.com:1": false, "localhost.evil:1": false,
	} {
		for _, cfg := range []Config{{HTTP: addr, Operator: &fake{}}, {GRPC: addr, Operator: &fake{}}} {
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
	for _, want := range []string{"--grpc nothing", "--http 0.0.0.0:1", "Operator"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestPageIsDrawn(t *testing.T) {
	r := opened(t, nil)
	for file, path := range map[string]string{"home.html": "/", "view.html": "/views/countries"} {
		code, body := r.get(t, path)
		if code != 200 {
			t.Fatalf("%s: %d", path, code)
		}
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
			t.Errorf("%s (go test ./serving -update writes it anew):\n%s", path, diff)
		}
		if strings.Contains(body, "<script") {
			t.Errorf("%s has a script", path)
		}
	}
	if code, _ := r.get(t, "/views/nosuch"); code != 404 {
		t.Errorf("unknown view: %d", code)
	}
	if code, _ := r.get(t, "/nosuch"); code != 404 {
		t.Errorf("unknown page: %d", code)
	}
	if code, body := r.get(t, "/style.css"); code != 200 || !strings.Contains(body, "prefers-color-scheme") {
		t.Errorf("style: %d", code)
	}
}

func TestPageSaysWhatIsWrong(t *testing.T) {
	r := opened(t, nil)
	r.fixture.Break("sales", reason.New(reason.ViewSuspended, "view sales is suspended at 1:17: <b>bad</b>"))
	r.fake.health = duetv1.Health_HEALTH_DEGRADED
	_, body := r.get(t, "/")
	for _, want := range []string{"view sales is suspended at 1:17: &lt;b&gt;bad&lt;/b&gt;", "needs attention", "United Kingdom"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	r2 := start(t, nil)
	r2.fake.health = duetv1.Health_HEALTH_STARTING
	if _, body := r2.get(t, "/"); !strings.Contains(body, "catching up, 25 %: reading the log") {
		t.Errorf("catching up: %s", body)
	}
}

func TestMetrics(t *testing.T) {
	r := opened(t, nil)
	r.post(t, "/v1/append/orders", "{}\n{}", nil)
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
		`duet_events{stream="orders",verdict="rejected"} 7`,
		`duet_generation 7`, `duet_ready 1`, `duet_archive_lag_messages 12`, `duet_log_used_bytes 3e+06`,
		`duet_reconciliation_equal 1`, `duet_reconciliation_differences_total 3`,
		`duet_batch_runs_total{kind="full",outcome="published"} 1`, `duet_view_rows{view="sales"} 50`, `duet_live_events_total 10`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if m := regexp.MustCompile(`(?m)^duet_calls_total.*method="[^/]`).FindString(body); m != "" {
		t.Errorf("a method that no service has: %s", m)
	}
}

func TestPageBeforeTheFirstGeneration(t *testing.T) {
	proof := &duetv1.Proof{LiveThrough: []*duetv1.Position{{Ordinal: 1, Sequence: 5}}}
	if got := noteText(proof); got != "no generation yet, live through 1:5" {
		t.Error(got)
	}
	for in, want := range map[string]string{"1000": "1000", "4.5000": "4.50", "4.5020": "4.502", "-0.00": "-0.00", "7.5": "7.5", "NaN": "NaN"} {
		if got := trim(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
