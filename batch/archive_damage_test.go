package batch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
)

// tamperer is a Repairer that rebuilds a file from the world and then changes
// its rows with a SELECT over the table good.
type tamperer struct {
	world  *batchtest.World
	change string
}

func (r *tamperer) Repair(ctx context.Context, f archive.File, path string) error {
	good := path + ".good"
	defer os.Remove(good)
	if err := r.world.Repair(ctx, f, good); err != nil {
		return err
	}
	db, err := duck.Open(duck.Config{Threads: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, "COPY (WITH good AS (FROM "+duck.Parquet(good)+") "+r.change+") TO "+duck.Literal(path)+" (FORMAT parquet)")
	return err
}

// A repair that yields other values is refused, even if the number of rows and
// the sums of numeric columns are equal; the same rows in another file layout are
// accepted.
func TestARepairMustReproduceEveryValue(t *testing.T) {
	origin := t.TempDir()
	s := mustOpen(t, origin, options{noLoop: true, world: batchtest.Config{Seed: 1, Block: 1000}})
	s.mustAppend(t, 500)
	s.mustArchive(t)
	files := s.archive.Current().FilesFor(batchtest.Stream, 0, s.archive.Through())
	order := " ORDER BY _duet_sequence, _duet_record"
	for _, c := range []struct {
		name, change string
		same         bool
	}{
		{"the same rows", "FROM good" + order, true},
		{"another VARCHAR", "SELECT * REPLACE (coalesce(k, '') || 'x' AS k) FROM good" + order, false},
		{"NULL for one VARCHAR", "SELECT * REPLACE (CASE WHEN k IS NOT NULL AND row_number() OVER (ORDER BY k IS NULL) > 1 THEN k END AS k) FROM good" + order, false},
		{"another TIMESTAMP", "SELECT * REPLACE (sold_at + INTERVAL 1 MICROSECOND AS sold_at) FROM good" + order, false},
		{"another DOUBLE", "SELECT * REPLACE (score + 0.5 AS score) FROM good" + order, false},
		{"a negative zero", "SELECT * REPLACE (CASE WHEN score = 0 THEN '-0.0'::DOUBLE ELSE score END AS score) FROM good" + order, false},
		{"numbers of two rows swapped", "SELECT * REPLACE (coalesce(lead(qty) OVER w, first_value(qty) OVER w) AS qty) FROM good WINDOW w AS (ORDER BY _duet_sequence, _duet_record ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)" + order, false},
		{"other records", "SELECT * REPLACE ((_duet_record + 1)::INTEGER AS _duet_record) FROM good" + order, false},
		{"another type", "SELECT * REPLACE (qty::BIGINT AS qty) FROM good" + order, false},
		{"rows out of order", "FROM good ORDER BY _duet_sequence DESC, _duet_record", false},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		victim := filepath.Join(dir, "archive", files[0].Path)
		if err := os.Remove(victim); err != nil {
			t.Fatal(err)
		}
		a, err := archive.Open(context.Background(), archive.Config{Dir: filepath.Join(dir, "archive"), Incarnation: batchtest.Incarnation,
			EventTime: map[string]string{batchtest.Stream: "sold_at"}, Repairer: &tamperer{s.world, c.change}})
		if err == nil {
			a.Close()
		}
		var damage *durable.DamageError
		switch {
		case c.same && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case !c.same && err == nil:
			t.Errorf("%s: the repaired file was accepted", c.name)
		case !c.same && (!errors.As(err, &damage) || damage.Path != victim || !strings.Contains(err.Error(), files[0].Through.String())):
			t.Errorf("%s: the error does not name the file and its positions: %v", c.name, err)
		}
	}
}

// fixedTail is a tail whose blocks hold the rows of one SELECT, as one run of one
// message.
type fixedTail struct{ query string }

func (fixedTail) NextBlock(context.Context) (archive.Block, error) { panic("not called") }

func (t fixedTail) ExportBlock(ctx context.Context, b archive.Block, data, path string) (int64, error) {
	db, err := duck.Open(duck.Config{Threads: 1})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	query := t.query
	if data == archive.Envelopes {
		for stream, a := range b.Accounts {
			query = fmt.Sprintf(`SELECT '%s' AS stream, %d::BIGINT AS received, %d::BIGINT AS duplicate, %d::BIGINT AS rejected, 0::USMALLINT AS _duet_lane,
				1::UINTEGER AS _duet_incarnation, %d::BIGINT AS _duet_sequence, 0::INTEGER AS _duet_record, 0::INTEGER AS _duet_part`, stream, a.Received, a.Duplicate, a.Rejected, b.Through.Sequence())
		}
	}
	res, err := db.ExecContext(ctx, "COPY ("+query+") TO "+duck.Literal(path)+" (FORMAT parquet)")
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (fixedTail) ReleaseBlock(context.Context, uint64) error { return nil }

// The content hash of fixed rows of each type never changes. If this test fails
// after an upgrade of DuckDB, its hash() has changed: raise archive.Format.
func TestContentHashIsStable(t *testing.T) {
	ctx := context.Background()
	a, err := archive.Open(ctx, archive.Config{Dir: t.TempDir(), Incarnation: batchtest.Incarnation})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	tail := fixedTail{`SELECT 'a' AS short, 'longer than twelve bytes' AS long, NULL::VARCHAR AS none, 1::TINYINT AS i8, -2::SMALLINT AS i16, 3::INTEGER AS i32,
		-4::BIGINT AS i64, 1.25::DECIMAL(4,2) AS d4, 99999.1234::DECIMAL(18,4) AS d18, -1.5::DECIMAL(38,10) AS d38, -0.0::DOUBLE AS f, true AS b,
		DATE '2026-01-01' AS day, TIMESTAMP '2026-01-01 12:34:56.789012' AS at, 'bytes'::BLOB AS raw, 0::USMALLINT AS _duet_lane,
		1::UINTEGER AS _duet_incarnation, 7::BIGINT AS _duet_sequence, rec::INTEGER AS _duet_record, 0::INTEGER AS _duet_part FROM range(3) t(rec)`}
	if err := a.CommitBlock(ctx, tail, archive.Block{ID: 1, Through: batchtest.At(7), Envelopes: 1, Accounts: map[string]schemas.Account{"fixed": {Received: 3, Accepted: 3}}}); err != nil {
		t.Fatal(err)
	}
	const want = "22156251603061846757"
	if got := a.Current().FilesFor("fixed", 0, batchtest.At(7))[0].Content; got != want {
		t.Errorf("content hash %s, want %s", got, want)
	}
}

func TestMergingKeepsTheContentHash(t *testing.T) {
	s := mustOpen(t, t.TempDir(), options{noLoop: true, world: batchtest.Config{Seed: seedOf(t)}, archive: archive.Config{MergeFiles: 3}})
	for range 3 {
		s.mustAppend(t, 4)
		s.mustArchive(t)
	}
	content := func() (sum map[string]string, files int) {
		for _, f := range s.archive.Current().FilesFor(batchtest.Stream, 0, s.archive.Through()) {
			sum = archive.AddSums(sum, map[string]string{"content": f.Content})
			files++
		}
		return sum, files
	}
	before, _ := content()
	for merged := true; merged; {
		var err error
		if merged, err = s.archive.MergeOnce(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if after, files := content(); files != 1 || after["content"] != before["content"] || before["content"] == "0" {
		t.Errorf("%d files with content hash %v, want 1 with %v", files, after, before)
	}
}
