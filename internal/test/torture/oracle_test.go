package torture

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"duet/internal/base/duck"
	"duet/schemas/duetv1"
)

// oracle is plain DuckDB over all acknowledged events.
type oracle struct {
	db     *duck.DB
	loaded map[int]uint64 // producer -> highest number loaded
	bad    uint64
	good   uint64
}

func newOracle(t *testing.T) *oracle {
	db, err := duck.Open(duck.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE sales(id BIGINT, shop VARCHAR, sku VARCHAR, qty INTEGER, price DECIMAL(18,4),
		weight DOUBLE, sold_at TIMESTAMP, sold_at_local TIMESTAMP, business_date DATE)`); err != nil {
		t.Fatal(err)
	}
	return &oracle{db: db, loaded: map[int]uint64{}}
}

// load adds the events acknowledged since the last call.
func (o *oracle) load(t *testing.T, l *load) {
	t.Helper()
	london, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "events.csv")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for _, p := range l.producers {
		for n := o.loaded[p.id] + 1; n <= p.acked.Load(); n++ {
			e := newEvent(p.seed, p.id, n)
			if e.bad {
				o.bad++
				continue
			}
			o.good++
			local := e.at.In(london)
			wall := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), local.Nanosecond(), time.UTC)
			fmt.Fprintf(w, "%d|%s|%s|%d|%d.%04d|%v|%s|%s|%s\n", e.id, e.shop, e.sku, e.qty, e.price/10000, e.price%10000, e.weight,
				e.at.Format("2006-01-02 15:04:05.000000"), wall.Format("2006-01-02 15:04:05.000000"), wall.Add(-4*time.Hour).Format("2006-01-02"))
		}
		o.loaded[p.id] = p.acked.Load()
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if fi, _ := os.Stat(path); fi.Size() == 0 {
		return
	}
	if _, err := o.db.Exec(`INSERT INTO sales SELECT * FROM read_csv(` + duck.Literal(path) + `, delim='|', header=false, nullstr='',
		columns={'id':'BIGINT','shop':'VARCHAR','sku':'VARCHAR','qty':'INTEGER','price':'DECIMAL(18,4)','weight':'DOUBLE',
		'sold_at':'TIMESTAMP','sold_at_local':'TIMESTAMP','business_date':'DATE'})`); err != nil {
		t.Fatal(err)
	}
}

// check compares one view's merged answer with its SELECT over all events.
func (o *oracle) check(t *testing.T, c *cluster, view, notBefore string) {
	t.Helper()
	limit, having := int32(10000), ""
	sql := "SELECT * FROM (" + projectFiles["views/"+view+".sql"] + ")"
	if view == "by_id" { // too many rows to list: none may be counted twice
		having, sql = "n > 1", sql+" WHERE n > 1"
	}
	res, err := c.query(&duetv1.QueryRequest{View: view, Limit: limit, Having: having, NotBefore: notBefore})
	if err != nil {
		t.Errorf("%s: %v", view, err)
		return
	}
	if res.GetTruncated() {
		t.Fatalf("%s: the answer was truncated; the test's view has too many groups", view)
	}
	rows, err := o.db.Query("SELECT COLUMNS(*)::VARCHAR FROM (" + sql + ")")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	keys := 0
	for _, col := range res.GetColumns() {
		if col.GetRole() != duetv1.ColumnRole_COLUMN_ROLE_MEASURE {
			keys++
		}
	}
	got := map[string][]string{}
	for _, r := range res.GetRows() {
		texts := make([]string, len(r.GetValues()))
		for i, v := range r.GetValues() {
			texts[i] = text(v)
		}
		got[strings.Join(texts[:keys], "\x00")] = texts
	}
	n, diffs := 0, 0
	for rows.Next() {
		n++
		want := make([]any, len(res.GetColumns()))
		for i := range want {
			want[i] = new(*string)
		}
		if err := rows.Scan(want...); err != nil {
			t.Fatal(err)
		}
		texts := make([]string, len(want))
		for i, p := range want {
			texts[i] = "NULL"
			if s := *p.(**string); s != nil {
				texts[i] = *s
			}
		}
		g := got[strings.Join(texts[:keys], "\x00")]
		if g == nil || !same(g, texts, res.GetColumns()) {
			if diffs++; diffs <= 3 {
				t.Errorf("%s at %s: group %q\n got %q\nwant %q", view, where(res.GetProof()), texts[:keys], g, texts)
			}
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if len(got) != n {
		t.Errorf("%s at %s: %d groups, want %d", view, where(res.GetProof()), len(got), n)
	}
}

func same(got, want []string, cols []*duetv1.Column) bool {
	for i := range want {
		if got[i] == want[i] {
			continue
		}
		if cols[i].GetType() != "DOUBLE" {
			return false
		}
		g, err1 := strconv.ParseFloat(got[i], 64)
		w, err2 := strconv.ParseFloat(want[i], 64)
		if err1 != nil || err2 != nil || math.Abs(g-w) > 1e-12*math.Max(math.Abs(g), math.Abs(w)) {
			return false
		}
	}
	return true
}

// text prints a value as DuckDB's CAST to VARCHAR does.
func text(v *duetv1.Value) string {
	switch k := v.GetKind().(type) {
	case nil:
		return "NULL"
	case *duetv1.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue)
	case *duetv1.Value_IntValue:
		return strconv.FormatInt(k.IntValue, 10)
	case *duetv1.Value_DoubleValue:
		return strconv.FormatFloat(k.DoubleValue, 'g', -1, 64)
	case *duetv1.Value_StringValue:
		return k.StringValue
	case *duetv1.Value_DecimalValue:
		return k.DecimalValue
	case *duetv1.Value_LocalValue:
		return strings.Replace(k.LocalValue, "T", " ", 1)
	}
	return fmt.Sprint(v)
}

func where(p *duetv1.Proof) string {
	at := func(ps []*duetv1.Position) uint64 {
		if len(ps) == 0 {
			return 0
		}
		return ps[0].GetSequence()
	}
	return fmt.Sprintf("generation %d, cut %d, live through %d", p.GetGeneration(), at(p.GetCut()), at(p.GetLiveThrough()))
}

// account compares the server's accounts with what was sent.
func (o *oracle) account(t *testing.T, c *cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := duetv1.NewOperateServiceClient(c.conn).GetStatus(ctx, &duetv1.GetStatusRequest{})
	if err != nil {
		t.Error(err)
		return
	}
	for _, s := range st.GetStreams() {
		a := s.GetAccount()
		if a.GetReceived() != a.GetAccepted()+a.GetDuplicate()+a.GetRejected() {
			t.Errorf("%s: the account does not add up: %v", s.GetName(), a)
		}
		if uint64(a.GetAccepted()) != o.good || uint64(a.GetRejected()) != o.bad {
			t.Errorf("%s: accepted %d, rejected %d; sent %d good, %d bad", s.GetName(), a.GetAccepted(), a.GetRejected(), o.good, o.bad)
		}
	}
}

// verify has the server recompute a view from archive and tail, and checks that
// it read exactly the accepted events.
func (o *oracle) verify(t *testing.T, c *cluster, view string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	answer, err := duetv1.NewViewServiceClient(c.conn).Verify(ctx, &duetv1.VerifyRequest{View: view})
	if err != nil {
		t.Errorf("verify %s: %v", view, err)
		return
	}
	if read := answer.GetArchivedEvents() + answer.GetTailEvents(); !answer.GetEqual() || read != o.good {
		t.Errorf("verify %s: equal %t, %d events read, %d accepted: %v", view, answer.GetEqual(), read, o.good, answer.GetDifferences())
	}
}
