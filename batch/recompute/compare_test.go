package recompute

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"duet/internal/base/duck"
	"duet/schemas/project"
	"duet/schemas/view"
)

// ledger compares one view over a stream of DOUBLE amounts, of which the live half
// has folded the rows in another order, in parts.
type ledger struct {
	t      *testing.T
	worker *worker
	job    ViewJob
}

func newLedger(t *testing.T, sql string) *ledger {
	t.Helper()
	column := func(name string, kind project.Kind) project.Column {
		return project.Column{Name: name, From: name, Type: project.Type{Kind: kind}}
	}
	stream := &project.Stream{Name: "ledger", File: "streams/ledger.yaml", Columns: []project.Column{column("account", project.Varchar), column("amount", project.Double)}}
	compiler, err := view.NewCompiler([]*project.Stream{stream})
	if err != nil {
		t.Fatal(err)
	}
	defer compiler.Close()
	compiled, faults := compiler.Compile(&project.View{Name: "profit", File: "views/profit.sql", SQL: sql})
	if compiled == nil {
		t.Fatal(faults)
	}
	v, err := FromView(compiled)
	if err != nil {
		t.Fatal(err)
	}
	w, closeWorker, err := newWorker(context.Background(), Job{Dir: t.TempDir(), Threads: 1, Tolerance: 1e-9, Largest: 10}, func(Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeWorker)
	w.results = []ViewResult{{Name: v.Name, File: "batch.parquet"}}
	l := &ledger{t, w, ViewJob{View: v, Mode: Full}}
	l.exec("CREATE TABLE amounts (account VARCHAR, amount DOUBLE, part INTEGER, _duet_at BIGINT, _duet_record INTEGER)")
	return l
}

func (l *ledger) exec(sql string) {
	l.t.Helper()
	if _, err := l.worker.conn.ExecContext(context.Background(), sql); err != nil {
		l.t.Fatalf("%v\n%s", err, sql)
	}
}

// book inserts pairs of an income and a cost of about size, in random order, that
// leave a profit of about 1e3 for each account.
func (l *ledger) book(r *rand.Rand, size float64) {
	l.t.Helper()
	var rows []string
	for i := range 3_000 {
		x := size * (0.5 + r.Float64())
		for _, amount := range []float64{x, -x + r.Float64()} {
			rows = append(rows, fmt.Sprintf("('a%d', %v::DOUBLE, %d, %d, 0)", i%3, amount, r.IntN(7), r.IntN(1e9)))
		}
	}
	l.exec("INSERT INTO amounts VALUES " + strings.Join(rows, ", "))
}

// compare folds both halves and compares them; tamper changes the live cells.
func (l *ledger) compare(tamper string) ViewCheck {
	l.t.Helper()
	live := filepath.Join(l.worker.job.Dir, "live.parquet")
	l.exec("CREATE OR REPLACE TEMP VIEW " + RowsTable + " AS SELECT * FROM amounts ORDER BY _duet_at")
	l.exec("COPY (" + l.job.Partial + ") TO " + duck.Literal(filepath.Join(l.worker.job.Dir, "batch.parquet")) + " (FORMAT parquet)")
	l.exec("CREATE OR REPLACE TEMP TABLE parts AS SELECT * FROM (" + l.job.Partial + ") LIMIT 0")
	for part := range 7 {
		l.exec(fmt.Sprintf("CREATE OR REPLACE TEMP VIEW %s AS SELECT * FROM amounts WHERE part = %d ORDER BY _duet_at DESC", RowsTable, part))
		l.exec("INSERT INTO parts " + l.job.Partial)
	}
	if tamper == "" {
		tamper = "SELECT * FROM parts"
	}
	l.exec("COPY (" + tamper + ") TO " + duck.Literal(live) + " (FORMAT parquet)")
	c := ViewCheck{View: l.job.Name, Verdict: Equal, Cause: l.job.Cause}
	if err := l.worker.compareView(context.Background(), 0, l.job, LiveView{Path: live}, &c); err != nil {
		l.t.Fatal(err)
	}
	return c
}

func newRand(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

const profitSQL = "SELECT account, sum(amount) AS profit, avg(amount) AS mean, stddev(amount) AS spread, count(*) AS entries FROM ledger GROUP BY ALL"

// The halves add incomes and costs of 1e9 in different orders. The profits of 1e3
// that remain differ by more than a billionth of themselves, but by less than a
// billionth of what was added.
func TestDoubleSumsThatCancelAreEqual(t *testing.T) {
	for _, size := range []float64{1, 1e9} {
		l := newLedger(t, profitSQL)
		l.book(newRand(t), size)
		if c := l.compare(""); c.Verdict != Equal || c.Different != 0 || c.Groups != 3 {
			t.Errorf("size %g: %+v", size, c)
		}
	}
}

// Sums that overflow in one order and not in another have no bound.
func TestDoubleSumsThatOverflowAreEqual(t *testing.T) {
	l := newLedger(t, "SELECT account, sum(amount) AS s FROM ledger GROUP BY ALL")
	l.exec("INSERT INTO amounts VALUES ('a', 1e308, 0, 1, 0), ('a', 1e308, 1, 2, 0), ('a', -1e308, 0, 3, 0), ('a', -1e308, 1, 4, 0)")
	if c := l.compare(""); c.Verdict != Equal {
		t.Errorf("%+v", c)
	}
}

// A difference beyond the tolerance is reported if only inexact cells have it, and
// holds the generation if an exact cell differs too.
func TestInexactCellsNeverHoldAGeneration(t *testing.T) {
	l := newLedger(t, profitSQL)
	l.book(newRand(t), 1e9)
	find := func(is func(Column) bool) string {
		i := slices.IndexFunc(l.job.Cells, is)
		if i < 0 {
			t.Fatalf("cells %+v", l.job.Cells)
		}
		return l.job.Cells[i].Name
	}
	sum := find(func(c Column) bool { return !c.Exact })
	count := find(func(c Column) bool { return c.Exact })
	wrong := "SELECT * REPLACE (" + sum + " + 1e8 AS " + sum + ") FROM parts"
	c := l.compare(wrong)
	if c.Verdict != Explained || c.Cause != CauseInexact || c.Inexact != 3 || c.Different != 3 || len(c.Largest) != 3 || c.Tolerance != 1e-9 {
		t.Errorf("inexact only: %+v", c)
	}
	for _, d := range c.Largest {
		if d.Columns[0].Column != "profit" {
			t.Errorf("difference %+v", d)
		}
	}
	c = l.compare("SELECT * REPLACE (" + sum + " + 1e8 AS " + sum + ", " + count + " + 1 AS " + count + ") FROM parts")
	if c.Verdict != Unexplained || c.Cause != "" || c.Inexact < 3 || c.Different != c.Inexact+3 {
		t.Errorf("exact too: %+v", c)
	}
	// A group of one half only is no rounding.
	if c = l.compare("SELECT * FROM parts WHERE k0 <> 'a1'"); c.Verdict != Unexplained || c.OnlyBatch != 1 {
		t.Errorf("a group is missing: %+v", c)
	}
	l.job.Cause = "definition"
	if c = l.compare(wrong); c.Verdict != Explained || c.Cause != "definition" {
		t.Errorf("with a cause of its own: %+v", c)
	}
}
