package event

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/zeebo/xxh3"

	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/project"
)

// file divides lines into runs as a client does: whole chunks of a hash chain.
func file(lines []string) (runs []Run) {
	h := xxh3.HashString128("duet file 1\x00visits")
	for i := 0; i < len(lines); i += LinesInChunk {
		part := lines[i:min(len(lines), i+LinesInChunk)]
		r := Run{Count: uint32(len(part)), Chunk: h.Bytes(), Session: "s"}
		for _, line := range part {
			b := h.Bytes()
			h = xxh3.Hash128(append(b[:], line...))
			r.Lines = append(r.Lines, h.Lo)
		}
		runs = append(runs, r)
	}
	return runs
}

// numbered returns n records {"a":0}, {"a":1}, ...
func numbered(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"a":%d}`, i))
	}
	return lines
}

type ingest struct {
	q  *Sequencer
	b  *Batch
	at uint64
}

func (g *ingest) send(runs []Run, lines []string) (a schemas.Account) {
	for _, r := range runs {
		g.at++
		a.Add(one(g.q, g.b, "visits", g.at, []Run{r}, lines[:r.Count]...))
		lines = lines[r.Count:]
	}
	return a
}

func newIngest(t *testing.T) *ingest {
	g := &ingest{q: NewSequencer(shopStreams(), NewState()), b: NewBatch(memory.DefaultAllocator)}
	t.Cleanup(g.b.Release)
	return g
}

func expect(t *testing.T, what string, got schemas.Account, accepted, duplicate, rejected int64) {
	t.Helper()
	want := schemas.Account{Received: accepted + duplicate + rejected, Accepted: accepted, Duplicate: duplicate, Rejected: rejected}
	if got != want {
		t.Fatalf("%s: the account is %+v, want %+v", what, got, want)
	}
}

func TestFilesAreKnownByTheirContent(t *testing.T) {
	g := newIngest(t)
	lines := numbered(2500)
	expect(t, "a file", g.send(file(lines), lines), 2500, 0, 0)
	expect(t, "the same content again", g.send(file(lines), lines), 0, 2500, 0)
	grown := numbered(4000)
	expect(t, "the file grown", g.send(file(grown), grown), 1500, 2500, 0)
	fork := numbered(4000)
	fork[1500] = `{"a":-1}`
	expect(t, "a file that differs from line 1500", g.send(file(fork), fork), 2500, 1500, 0)
	expect(t, "the first one", g.send(file(lines), lines), 0, 2500, 0)
	same := []string{`{"a":1}`, `{"a":1}`, `{"a":1}`}
	expect(t, "equal lines", g.send(file(same), same), 3, 0, 0)
	// A killed ingest runs again: it sent part of a chunk, and now sends all of it.
	other := append([]string{`{"a":-5}`}, numbered(1000)...)
	part := file(other)[0]
	part.Lines, part.Count = part.Lines[:400], 400
	expect(t, "a killed ingest", g.send([]Run{part}, other), 400, 0, 0)
	expect(t, "run again", g.send(file(other), other), 601, 400, 0)
}

// A rejected line is known only to the definition that rejected it, so that an
// edited definition can accept it.
func TestAnEditedDefinitionHealsRefusedLines(t *testing.T) {
	g := newIngest(t)
	lines := numbered(100)
	lines[10] = `{"a":"ten"}`
	expect(t, "with a bad line", g.send(file(lines), lines), 99, 0, 1)
	expect(t, "again", g.send(file(lines), lines), 0, 100, 0)

	edited := shopStreams()
	edited["visits"] = NewSchema(&project.Stream{Name: "visits", Columns: []project.Column{{Name: "b", From: "a", Type: project.Type{Kind: project.Varchar}}}})
	g.q = NewSequencer(edited, g.q.State())
	expect(t, "as VARCHAR", g.send(file(lines), lines), 1, 99, 0)
	expect(t, "as VARCHAR again", g.send(file(lines), lines), 0, 100, 0)
	g.q = NewSequencer(shopStreams(), g.q.State())
	expect(t, "as before", g.send(file(lines), lines), 0, 100, 0)
}

// A line beyond the future bound is not known, so that it can be accepted later.
func TestALineTooFarAheadMayComeAgain(t *testing.T) {
	g := newIngest(t)
	run := file([]string{"x"})
	send := func(ahead string) schemas.Account { return one(g.q, g.b, "orders", 1, run, `{"at":"`+ahead+`"}`) }
	expect(t, "a day ahead", send("2026-01-03 03:04:05"), 0, 0, 1)
	expect(t, "when that day has come", send("2026-01-02 03:04:05"), 1, 0, 0)
	expect(t, "again", send("2026-01-02 03:04:05"), 0, 1, 0)
}

// Beyond the limit, the oldest chunks are decided by their last line or rejected; a
// file's first chunk is always decided exactly.
func TestForgottenLinesAreNeverGuessed(t *testing.T) {
	g := newIngest(t)
	g.q.State().lines.max = 3000
	old := numbered(3072)
	old[1500] = `{"a":"x"}`
	expect(t, "old file", g.send(file(old), old), 3071, 0, 1)
	young := append([]string{`{"a":-1}`}, numbered(4000)...)
	expect(t, "young file", g.send(file(young), young), 4001, 0, 0)
	expect(t, "old file again", g.send(file(old), old), 0, 3072, 0)
	if got := g.q.State().lines.count; got > 3000 {
		t.Fatalf("the state holds %d digests, want at most 3000", got)
	}
	part := file(old)[1]
	part.Lines, part.Count = part.Lines[:100], 100
	expect(t, "part of its second chunk", g.send([]Run{part}, old), 0, 0, 100)
	if why := g.b.RejectRecord().Column(1).ValueStr(0); why != "the file was ingested too long ago to tell whether it held this line" {
		t.Fatal(why)
	}
	fork := numbered(3072)
	fork[1500], fork[2000] = old[1500], `{"a":-7}`
	expect(t, "a file that differs from line 2000", g.send(file(fork), fork), 1024, 1024+1, 1023)
	expect(t, "young file again", g.send(file(young), young), 0, 4001, 0)
	fresh := append([]string{`{"a":-2}`}, numbered(3000)...)
	expect(t, "a new file", g.send(file(fresh), fresh), 3001, 0, 0)

	g.q = NewSequencer(map[string]*Schema{"visits": NewSchema(&project.Stream{Name: "visits", Columns: []project.Column{{Name: "c", Type: project.Type{Kind: project.Varchar}}}})}, g.q.State())
	expect(t, "rejected lines under the edited definition", g.send(file(old), old), 1, 3071, 0)
	expect(t, "and known", g.send(file(old), old), 0, 3072, 0)
}

// A restored state drops the same digests.
func TestRestoredLinesForgetAlike(t *testing.T) {
	g, restored := newIngest(t), NewState()
	g.q.State().lines.max, restored.lines.max = 2000, 2000
	for n := range 6 {
		lines := append([]string{fmt.Sprintf(`{"a":%d}`, -n)}, numbered(2000+n*200)...)
		lines[1100+n] = `{"a":""}`
		rest := lines
		for _, r := range file(lines) {
			g.send([]Run{r}, rest)
			rest = rest[r.Count:]
			if err := restored.RestoreLines(g.b.LinesRecord()); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := &ingest{q: NewSequencer(shopStreams(), restored), b: g.b}
	forgotten := int64(0)
	for n := range 6 {
		lines := append([]string{fmt.Sprintf(`{"a":%d}`, -n)}, numbered(1800+n*200)...)
		lines[1100+n] = `{"a":""}`
		x := g.send(file(lines), lines)
		forgotten += x.Rejected
		if y := again.send(file(lines), lines); x != y {
			t.Fatalf("file %d: %+v, restored %+v", n, x, y)
		}
	}
	if forgotten == 0 {
		t.Fatal("no digest was dropped, so this test compares nothing")
	}
}

// The first chunk of many files stays exact and fast.
func TestVeryManySmallFiles(t *testing.T) {
	g := newIngest(t)
	g.q.State().lines.max = 100
	for round := range 2 {
		for i := range 2000 {
			lines := append([]string{fmt.Sprintf(`{"a":%d}`, -i-1)}, numbered(9)...)
			if round == 0 {
				expect(t, "small file", g.send(file(lines), lines), 10, 0, 0)
			} else {
				expect(t, "again", g.send(file(lines), lines), 0, 10, 0)
			}
		}
	}
}

func TestDigestSetIsASet(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for _, n := range []int{1, 64, 1000, 1024, 5000, 40_000} {
		var s digestSet
		want := map[uint64]bool{}
		for range n {
			d := r.Uint64N(uint64(2 * n))
			if s.has(d) != want[d] {
				t.Fatalf("%d: has(%d) is %v", n, d, s.has(d))
			}
			if !want[d] {
				want[d] = true
				s.add(d)
			}
		}
		c := s.clone()
		s.add(uint64(2 * n))
		for d := range uint64(2 * n) {
			if c.has(d) != want[d] || s.has(d) != want[d] {
				t.Fatalf("%d: has(%d)", n, d)
			}
		}
		if c.len() != len(want) || s.len() != len(want)+1 || c.has(uint64(2*n)) {
			t.Fatalf("%d: %d, %d digests, should be %d", n, c.len(), s.len(), len(want))
		}
	}
}

// Rejects and lines can be loaded into DuckDB tables, and lines restored from them.
func TestLinesAndRejectsThroughDuckDB(t *testing.T) {
	g := newIngest(t)
	lines := numbered(1500)
	lines[3], lines[1400] = `{"a":"x"}`, "\xff\x00"
	db, err := duck.Open(duck.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, sql := range []string{"CREATE TABLE lines(" + LinesSQLColumns + ")", "CREATE TABLE rejects(" + RejectSQLColumns + ")"} {
		if _, err := conn.ExecContext(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	rest, number := lines, uint32(1)
	for _, r := range file(lines) {
		r.File = "shops.csv"
		for range r.Count {
			number++
			r.Numbers = append(r.Numbers, number)
		}
		g.send([]Run{r}, rest)
		rest = rest[r.Count:]
		for table, rec := range map[string]arrow.RecordBatch{"lines": g.b.LinesRecord(), "rejects": g.b.RejectRecord()} {
			if err := conn.LoadArrow(ctx, table, rec); err != nil {
				t.Fatal(err)
			}
		}
	}
	restored := NewState()
	if err := conn.QueryArrow(ctx, "FROM lines ORDER BY _duet_at, _duet_record", restored.RestoreLines); err != nil {
		t.Fatal(err)
	}
	g.q = NewSequencer(shopStreams(), restored)
	expect(t, "after restoring", g.send(file(lines), lines), 0, 1500, 0)
	var got string
	if err := conn.QueryRowContext(ctx, "SELECT string_agg(concat_ws('|', stream, reason, column_name, raw, received_at, session, file, line, _duet_record), '; ' ORDER BY _duet_at) FROM rejects").Scan(&got); err != nil {
		t.Fatal(err)
	}
	want := `visits|a: "x" is not an INTEGER|a|{\x22a\x22:\x22x\x22}|2026-01-02 03:04:05|s|shops.csv|5|3; visits|not UTF-8 at byte 1: 0xff|\xFF\x00|2026-01-02 03:04:05|s|shops.csv|1402|376`
	if got != want {
		t.Fatalf("rejects are\n%s, not\n%s", got, want)
	}
}
