package serving

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"duet/schemas/duetv1"
	"duet/serving/query"
	"duet/serving/reason"
)

//go:embed web
var web embed.FS

// Sizes and times of the page.
const (
	homeRows    = 5
	viewRows    = 200
	refresh     = 5 // seconds
	pageTimeout = 10 * time.Second
)

// pages renders the page: without scripts, from the calls that clients make.
type pages struct {
	cfg  Config
	api  *api
	tmpl *template.Template
	css  []byte
}

func newPages(cfg Config, a *api) *pages {
	css, err := web.ReadFile("web/style.css")
	if err != nil {
		panic(err) // it is embedded
	}
	return &pages{cfg: cfg, api: a, tmpl: template.Must(template.ParseFS(web, "web/page.html")), css: css}
}

// The data of the template.
type (
	page struct {
		Project, Version, Time string
		State, StateClass      string
		Banner                 string
		Refresh                int
		Problems               []string
		Facts                  []fact
		Views                  []card
		One                    *card // of a view's own page
	}
	fact struct{ Name, Value, More, Class string }
	card struct {
		Name, Description, Problem, SQL, Note string
		Alone                                 bool
		Columns                               []head
		Rows                                  [][]cell
	}
	head struct {
		Name, Unit, Title string
		Number, Inexact   bool
	}
	cell struct{ Text, Class string }
)

func (p *pages) style(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=300")
	_, _ = w.Write(p.css) // the client may be gone
}

func (p *pages) home(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
	defer cancel()
	out := p.frame(ctx)
	if p.api.ready() == nil {
		var views *duetv1.ListViewsResponse
		refused := p.api.gate.pass(ctx, pageViews, func(ctx context.Context) (err error) {
			views, err = p.api.ListViews(ctx, &duetv1.ListViewsRequest{})
			return err
		})
		if refused != nil {
			out.Problems = append(out.Problems, refused.Message)
		}
		for _, v := range views.GetViews() {
			out.Views = append(out.Views, p.card(ctx, v, homeRows))
		}
	}
	p.write(w, http.StatusOK, out)
}

func (p *pages) view(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), pageTimeout)
	defer cancel()
	out := p.frame(ctx)
	status := http.StatusOK
	if p.api.ready() == nil {
		var v *duetv1.GetViewResponse
		refused := p.api.gate.pass(ctx, pageViews, func(ctx context.Context) (err error) {
			v, err = p.api.GetView(ctx, &duetv1.GetViewRequest{View: r.PathValue("name")})
			return err
		})
		switch {
		case refused == nil:
			c := p.card(ctx, v.GetView(), viewRows)
			c.Alone = true
			out.One = &c
		case refused.Reason == reason.ViewUnknown || refused.Reason == reason.ArgumentInvalid:
			status, out.Problems = http.StatusNotFound, append(out.Problems, refused.Message)
		default:
			status, out.Problems = http.StatusInternalServerError, append(out.Problems, refused.Message)
		}
	}
	p.write(w, status, out)
}

func (p *pages) write(w http.ResponseWriter, status int, out page) {
	var b bytes.Buffer
	if err := p.tmpl.ExecuteTemplate(&b, "page", out); err != nil {
		p.cfg.Log.Error("the page could not be rendered", "error", err)
		http.Error(w, "the page could not be rendered; see the log of the server", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may be gone
}

// frame returns what every page begins with: health and freshness.
func (p *pages) frame(ctx context.Context) page {
	now := p.cfg.Now().UTC()
	out := page{Project: p.cfg.Project.Name, Time: now.Format("2006-01-02 15:04:05"), Refresh: refresh}
	var s *duetv1.GetStatusResponse
	refused := p.api.gate.pass(ctx, pageStatus, func(ctx context.Context) (err error) {
		s, err = p.api.GetStatus(ctx, &duetv1.GetStatusRequest{})
		return err
	})
	if refused != nil {
		out.State, out.StateClass, out.Problems = "status unknown", "bad", []string{refused.Message}
		return out
	}
	p.health(&out, s, now)
	return out
}

// health adds what a status says.
func (p *pages) health(out *page, s *duetv1.GetStatusResponse, now time.Time) {
	out.Version, out.Problems = s.GetVersion(), s.GetProblems()
	out.Banner = changedSentence(s.GetProjectChangedFiles())
	switch s.GetHealth() {
	case duetv1.Health_HEALTH_OK:
		out.State, out.StateClass = "well", "good"
	case duetv1.Health_HEALTH_STARTING:
		part, what := p.api.progress()
		out.State, out.StateClass = fmt.Sprintf("catching up, %.0f %%: %s", part*100, what), "warn"
	case duetv1.Health_HEALTH_DEGRADED:
		out.State, out.StateClass = "needs attention", "warn"
	default:
		out.State, out.StateClass = "failed", "bad"
	}
	out.Facts = facts(s, now)
}

// facts returns the figures at the head of the page.
func facts(s *duetv1.GetStatusResponse, now time.Time) []fact {
	gen := fact{Name: "Batch generation", Value: "no generation yet"}
	if g := s.GetBatch().GetCurrent(); g.GetNumber() > 0 {
		gen.Value = strconv.FormatUint(g.GetNumber(), 10)
		gen.More = "through " + positionText(g.GetCut())
		if t := g.GetPublishTime(); t != nil {
			gen.More += ", published " + ago(now.Sub(t.AsTime()))
		}
	}
	live := fact{Name: "Live through", Value: positionText(s.GetLive().GetThrough()), More: count(s.GetLive().GetLagMessages(), "message") + " behind the log"}
	if s.GetLive().GetLagMessages() == 0 {
		live.More = "up to date"
	}
	rec := fact{Name: "Last reconciliation", Value: "none yet", More: "the halves are compared by each batch run"}
	if v := s.GetBatch().GetLastVerdict(); v != "" {
		rec = fact{Name: "Last reconciliation", Value: "equal", More: v, Class: "good"}
		if !s.GetBatch().GetLastEqual() {
			rec.Value, rec.Class = "different", "bad"
		}
	}
	out := []fact{gen, live, rec}
	for _, st := range s.GetStreams() {
		a := st.GetAccount()
		f := fact{Name: st.GetName() + " events", Value: group(strconv.FormatInt(a.GetAccepted(), 10))}
		f.More = fmt.Sprintf("%s duplicate, %s rejected", group(strconv.FormatInt(a.GetDuplicate(), 10)), group(strconv.FormatInt(a.GetRejected(), 10)))
		if t := st.GetNewestEventTime(); t != nil {
			f.More += ", newest " + t.AsTime().Format("2006-01-02 15:04:05")
		}
		out = append(out, f)
	}
	l := fact{Name: "Log", Value: byteText(s.GetLog().GetUsedBytes()), More: "of " + byteText(s.GetLog().GetLimitBytes())}
	if s.GetLog().GetUsedBytes()*2 > s.GetLog().GetLimitBytes() {
		l.Class = "warn"
	}
	return append(out, l, fact{Name: "Memory", Value: byteText(s.GetStoreMemoryBytes()), More: "of " + byteText(s.GetStoreMemoryLimitBytes()) + " for the store"})
}

// card returns a view with its top rows: the latest buckets if it has a time
// key, else the largest values of the first measure.
func (p *pages) card(ctx context.Context, v *duetv1.View, rows int32) card {
	out := card{Name: v.GetName(), Description: v.GetDescription(), Problem: v.GetProblem(), SQL: strings.TrimSpace(v.GetSql())}
	if out.Problem != "" {
		return out
	}
	req := &duetv1.QueryRequest{View: v.GetName(), Limit: rows}
	for _, role := range []duetv1.ColumnRole{duetv1.ColumnRole_COLUMN_ROLE_TIME, duetv1.ColumnRole_COLUMN_ROLE_MEASURE} {
		for _, c := range v.GetColumns() {
			if c.GetRole() == role && (role == duetv1.ColumnRole_COLUMN_ROLE_TIME || numeric(c.GetType())) {
				req.OrderBy = append(req.OrderBy, c.GetName()+" desc")
				break
			}
		}
	}
	var resp *duetv1.QueryResponse
	refused := p.api.gate.pass(ctx, pageViews, func(ctx context.Context) (err error) {
		resp, err = p.api.Query(ctx, req)
		return err
	})
	if refused != nil {
		out.Problem = refused.Message
		return out
	}
	for _, c := range resp.GetColumns() {
		h := head{Name: c.GetName(), Unit: c.GetUnit(), Title: c.GetType(), Number: numeric(c.GetType()), Inexact: !c.GetExact()}
		if h.Inexact {
			h.Title += ", a sum of floating-point numbers: its last digits may differ between the halves"
		}
		out.Columns = append(out.Columns, h)
	}
	out.Rows = make([][]cell, len(resp.GetRows()))
	for j, c := range resp.GetColumns() {
		values := make([]*duetv1.Value, len(resp.GetRows()))
		for i, r := range resp.GetRows() {
			values[i] = r.GetValues()[j]
		}
		for i, shown := range show(c, values) {
			out.Rows[i] = append(out.Rows[i], shown)
		}
	}
	out.Note = noteText(resp.GetProof())
	if resp.GetTruncated() {
		out.Note = fmt.Sprintf("the first %d rows; %s", len(resp.GetRows()), out.Note)
	}
	return out
}

// noteText describes how fresh a card is.
func noteText(p *duetv1.Proof) string {
	generation := "no generation yet"
	if n := p.GetGeneration(); n > 0 {
		generation = fmt.Sprintf("generation %d", n)
	}
	return generation + ", live through " + positionText(p.GetLiveThrough())
}

func numeric(typ string) bool {
	for _, p := range []string{"DECIMAL", "BIGINT", "HUGEINT", "INTEGER", "SMALLINT", "TINYINT", "UBIGINT", "UINTEGER", "USMALLINT", "UTINYINT", "DOUBLE", "FLOAT"} {
		if strings.HasPrefix(typ, p) {
			return !strings.HasSuffix(typ, "]")
		}
	}
	return false
}

// show formats the values of a column. The numbers of a column have one scale, at
// least two decimals if they have any. Digits are grouped for measures only:
// keys may be ids and years. A time bucket is shown without the parts that are
// always zero.
func show(c *duetv1.Column, values []*duetv1.Value) []cell {
	measure := c.GetRole() == duetv1.ColumnRole_COLUMN_ROLE_MEASURE
	texts, scale := make([]string, len(values)), 0
	for i, v := range values {
		if texts[i] = numberText(v); texts[i] != "" && measure {
			scale = max(scale, decimals(trim(texts[i])))
		}
	}
	out := make([]cell, len(values))
	for i, v := range values {
		switch k := v.GetKind().(type) {
		case nil:
			out[i] = cell{"–", "null"}
			if numeric(c.GetType()) {
				out[i].Class = "null number"
			}
		case *duetv1.Value_IntValue, *duetv1.Value_DecimalValue, *duetv1.Value_DoubleValue:
			if text := texts[i]; measure {
				out[i] = cell{group(rescale(text, scale)), "number"}
			} else {
				out[i] = cell{text, "number"}
			}
		case *duetv1.Value_LocalValue:
			out[i] = cell{bucketText(k.LocalValue, c.GetBucket()), "text"}
		default:
			out[i] = cell{query.Text(v), "text"}
		}
	}
	return out
}

// numberText formats a number, a double with four decimals; "" if v is none.
func numberText(v *duetv1.Value) string {
	switch k := v.GetKind().(type) {
	case *duetv1.Value_IntValue, *duetv1.Value_DecimalValue:
		return query.Text(v)
	case *duetv1.Value_DoubleValue:
		return strconv.FormatFloat(k.DoubleValue, 'f', 4, 64)
	}
	return ""
}

// bucketText formats the start of a time bucket.
func bucketText(start, bucket string) string {
	t := strings.Replace(start, "T", " ", 1)
	switch strings.TrimSuffix(bucket[strings.IndexByte(bucket, ' ')+1:], "s") {
	case "day", "week", "month", "quarter", "year":
		t = strings.TrimSuffix(t, " 00:00:00")
	case "hour", "minute":
		t = strings.TrimSuffix(t, ":00")
	}
	return t
}

// decimals returns the number of decimals of a number's text.
func decimals(s string) int {
	if i := strings.IndexByte(s, '.'); i >= 0 {
		return len(s) - i - 1
	}
	return 0
}

// rescale gives a number's text a number of decimals. It never cuts digits other
// than zeros.
func rescale(s string, scale int) string {
	if strings.Trim(s, "-0123456789.") != "" {
		return s // NaN, Inf
	}
	for decimals(s) > scale && strings.HasSuffix(s, "0") {
		s = s[:len(s)-1]
	}
	if scale > 0 && decimals(s) == 0 {
		s += "."
	}
	for decimals(s) < scale {
		s += "0"
	}
	return strings.TrimSuffix(s, ".")
}

// trim removes zeros from the end of a number, down to two decimals.
func trim(s string) string {
	if i := strings.IndexByte(s, '.'); i >= 0 {
		for len(s) > i+3 && s[len(s)-1] == '0' {
			s = s[:len(s)-1]
		}
	}
	return s
}

// group puts commas between the thousands of a decimal number.
func group(s string) string {
	sign, whole, rest := "", s, ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	if i := strings.IndexByte(whole, '.'); i >= 0 {
		whole, rest = whole[:i], whole[i:]
	}
	if strings.Trim(whole, "0123456789") != "" {
		return s // NaN, Inf
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return sign + whole + rest
}

func positionText(ps []*duetv1.Position) string {
	if len(ps) == 0 {
		return "the beginning"
	}
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = fmt.Sprintf("%d:%d", p.GetOrdinal(), p.GetSequence())
	}
	return strings.Join(parts, ", ")
}

func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return group(strconv.FormatUint(n, 10)) + " " + what + "s"
}

// ago formats an age roughly, in words.
func ago(d time.Duration) string {
	switch {
	case d < 2*time.Second:
		return "just now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// byteText formats a size in the units of duet.yaml: 1 GB is 10^9 bytes.
func byteText(n int64) string {
	switch {
	case n >= 10e9 || n >= 1e9 && n%1e9 == 0:
		return fmt.Sprintf("%d GB", n/1e9)
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%d MB", n/1e6)
	}
	return fmt.Sprintf("%d kB", n/1e3)
}
