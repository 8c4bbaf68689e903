package recompute

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/internal/base/failpoint"
	"duet/schemas"
)

// fpWritten lies between a cell file's COPY and its reading back.
var fpWritten = failpoint.New("recompute.written")

// mismatchError reports rows that disagree with their manifest (H6).
type mismatchError struct{ reason string }

func (e *mismatchError) Error() string { return e.reason }

// worker computes one job on one DuckDB connection, in temporary tables and views.
type worker struct {
	job      Job
	conn     *duck.Conn
	progress func(Progress)
	streams  map[string]*stream
	results  []ViewResult
}

// stream counts a stream's rows in the files.
type stream struct {
	StreamJob
	added int64          // rows in (Job.After, Job.Through]
	all   int64          // rows up to Job.Through
	batch archive.Totals // of the report's span
}

func newWorker(ctx context.Context, job Job, progress func(Progress)) (*worker, func(), error) {
	memory := ""
	if job.Memory > 0 {
		memory = fmt.Sprintf("%dB", job.Memory)
	}
	spill := filepath.Join(job.Dir, "spill")
	db, err := duck.Open(duck.Config{Threads: job.Threads, MemoryLimit: memory, TempDir: spill})
	if err != nil {
		return nil, nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	// Cells are ordered only when they are written; keeping an order costs memory.
	if _, err := conn.ExecContext(ctx, "SET preserve_insertion_order=false"); err != nil {
		conn.Close()
		db.Close()
		return nil, nil, err
	}
	w := &worker{job: job, conn: conn, progress: progress, streams: map[string]*stream{}}
	return w, func() { conn.Close(); db.Close() }, nil
}

// countStreams counts and sums the archived rows of the span. It returns a
// *mismatchError if they disagree with the manifest.
func (w *worker) countStreams(ctx context.Context) error {
	from := w.job.After
	if w.job.Full {
		from = 0
	}
	accounts := map[string]schemas.Account{}
	if files := within(w.job.Envelopes, from, w.job.Through); len(files) > 0 {
		var err error
		if accounts, err = archive.CountEnvelopes(ctx, w.conn, archive.Relation(w.job.Archive, files, from, w.job.Through)); err != nil {
			return fmt.Errorf("count events by verdict: %w", err)
		}
	}
	for _, sj := range w.job.Streams {
		start := time.Now()
		s := &stream{StreamJob: sj, batch: archive.Totals{Account: accounts[sj.Name]}}
		w.streams[sj.Name] = s
		for _, f := range sj.Files {
			if f.Through <= w.job.Through {
				s.all += f.Rows
			} else {
				s.all++ // only whether there are any matters
			}
		}
		counted, err := w.sum(ctx, within(sj.Files, from, w.job.Through), from, sj.Totals.Sums)
		if err != nil {
			return fmt.Errorf("count the rows of %s: %w", sj.Name, err)
		}
		s.batch.Accepted, s.batch.Sums = counted.Accepted, counted.Sums
		s.added = counted.Accepted
		if w.job.Full && w.job.After > 0 {
			recent, err := w.sum(ctx, within(sj.Files, w.job.After, w.job.Through), w.job.After, nil)
			if err != nil {
				return fmt.Errorf("count the rows of %s: %w", sj.Name, err)
			}
			s.added = recent.Accepted
		}
		if d := s.batch.Differences(sj.Totals); len(d) > 0 {
			return &mismatchError{fmt.Sprintf("the archive's files of %s at positions after %s through %s do not hold what the manifest accounts for (files, manifest): %s", sj.Name, from, w.job.Through, strings.Join(d, "; "))}
		}
		w.progress(Progress{Step: "totals", View: sj.Name, Total: len(w.job.Views), Rows: counted.Accepted, Micros: time.Since(start).Microseconds()})
	}
	return nil
}

// within returns the files that may hold rows in (after, through].
func within(files []archive.File, after, through schemas.Position) []archive.File {
	var in []archive.File
	for _, f := range files {
		if f.Through > after && f.From < through {
			in = append(in, f)
		}
	}
	return in
}

// sum counts the rows of files after a position and sums the columns of like.
func (w *worker) sum(ctx context.Context, files []archive.File, after schemas.Position, like map[string]string) (archive.Totals, error) {
	t := archive.Totals{}
	if len(files) == 0 {
		for col := range like {
			t.Sums = archive.AddSums(t.Sums, map[string]string{col: "0"})
		}
		return t, nil
	}
	exprs := []string{"count(*)"}
	var cols []string
	for col := range like {
		cols = append(cols, col)
		exprs = append(exprs, "coalesce(sum("+duck.Ident(col)+"), 0)::VARCHAR")
	}
	texts := make([]string, len(cols))
	dest := []any{&t.Accepted}
	for i := range texts {
		dest = append(dest, &texts[i])
	}
	query := "SELECT " + strings.Join(exprs, ", ") + " FROM " + archive.Relation(w.job.Archive, files, after, w.job.Through)
	if err := w.conn.QueryRowContext(ctx, query).Scan(dest...); err != nil {
		return t, err
	}
	for i, col := range cols {
		t.Sums = archive.AddSums(t.Sums, map[string]string{col: texts[i]})
	}
	return t, nil
}

// computeViews computes and writes the views one after the other; DuckDB uses the
// job's threads within each.
func (w *worker) computeViews(ctx context.Context) error {
	for i, v := range w.job.Views {
		start := time.Now()
		w.progress(Progress{Step: "compute", View: v.Name, Done: i, Total: len(w.job.Views)})
		r := ViewResult{Name: v.Name}
		err := w.compute(ctx, i, v)
		if err == nil {
			err = w.write(ctx, i, v, &r)
		} else if duck.Evaluates(err) {
			r.Suspended, err = w.locate(ctx, v, err)
		}
		if err != nil {
			return fmt.Errorf("view %s: %w", v.Name, err)
		}
		w.results = append(w.results, r)
		w.progress(Progress{Step: "write", View: v.Name, Done: i + 1, Total: len(w.job.Views), Rows: r.Rows, Micros: time.Since(start).Microseconds()})
	}
	return nil
}

func cellsName(i int) string { return fmt.Sprintf("cells_%d", i) } // the generation's cells
func deltaName(i int) string { return fmt.Sprintf("delta_%d", i) } // the span's cells alone

// compute fills cells_i, and delta_i for an incremental view.
func (w *worker) compute(ctx context.Context, i int, v ViewJob) error {
	after := schemas.Position(0)
	if v.Mode == Incremental {
		after = w.job.After
	}
	target := cellsName(i)
	if v.Mode == Incremental {
		target = deltaName(i)
	}
	s := w.streams[v.Stream]
	if s == nil {
		return fmt.Errorf("its stream %s is not in the job", v.Stream)
	}
	// No rows give no groups, even where the SELECT has no GROUP BY.
	empty := s.all == 0 || v.Mode == Incremental && s.added == 0
	if empty {
		if err := w.table(ctx, v, target, ""); err != nil {
			return err
		}
	} else if err := w.partial(ctx, v, target, after, w.job.Through, ""); err != nil {
		return err
	}
	if v.Mode != Incremental {
		return nil
	}
	from := "SELECT * FROM " + target
	if v.Base != "" {
		from = "SELECT * FROM " + duck.Parquet(v.Base) + " UNION ALL " + from
	}
	if err := w.view(ctx, CellsTable, from); err != nil {
		return err
	}
	return w.table(ctx, v, cellsName(i), v.Merge)
}

// partial fills a table with the partial of the view's rows in (after, through]
// for which where holds, if it is given.
func (w *worker) partial(ctx context.Context, v ViewJob, target string, after, through schemas.Position, where string) error {
	files := within(w.streams[v.Stream].Files, after, through)
	if len(files) == 0 {
		return w.table(ctx, v, target, "")
	}
	from := "SELECT * FROM " + archive.Relation(w.job.Archive, files, after, through)
	if where != "" {
		from += " WHERE " + where
	}
	if err := w.view(ctx, RowsTable, from); err != nil {
		return err
	}
	return w.table(ctx, v, target, v.Partial)
}

// view creates a temporary view.
func (w *worker) view(ctx context.Context, name, query string) error {
	_, err := w.conn.ExecContext(ctx, "CREATE OR REPLACE TEMP VIEW "+duck.Ident(name)+" AS "+query)
	return err
}

// table creates a temporary table of cells and fills it from a query, if given.
func (w *worker) table(ctx context.Context, v ViewJob, name, query string) error {
	if _, err := w.conn.ExecContext(ctx, "CREATE OR REPLACE TEMP TABLE "+name+" ("+ddl(v)+")"); err != nil {
		return err
	}
	if query == "" {
		return nil
	}
	_, err := w.conn.ExecContext(ctx, "INSERT INTO "+name+" "+query)
	return err
}

func ddl(v ViewJob) string {
	var defs []string
	for _, c := range v.columns() {
		defs = append(defs, duck.Ident(c.Name)+" "+c.Type)
	}
	return strings.Join(defs, ", ")
}

func (v *View) columns() []Column { return append(v.Keys[:len(v.Keys):len(v.Keys)], v.Cells...) }

// names returns a list of quoted columns, each with a prefix.
func names(prefix string, cols []Column) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = prefix + duck.Ident(c.Name)
	}
	return strings.Join(out, ", ")
}

// write writes cells_i to a file, ordered by key, reads it back, compares it with
// the table bit for bit, syncs and checksums it, and drops the table.
func (w *worker) write(ctx context.Context, i int, v ViewJob, r *ViewResult) error {
	path := filepath.Join(w.job.Dir, v.Name+".parquet")
	query := "SELECT * FROM " + cellsName(i)
	if len(v.Keys) > 0 {
		query += " ORDER BY " + names("", v.Keys)
	}
	before, err := w.fingerprint(ctx, v, cellsName(i))
	if err != nil {
		return err
	}
	_, err = w.conn.ExecContext(ctx, "COPY ("+query+") TO "+duck.Literal(path)+" (FORMAT parquet, COMPRESSION zstd)")
	if err == nil {
		err = fpWritten.Hit()
	}
	if err != nil {
		return err
	}
	after, err := w.fingerprint(ctx, v, duck.Parquet(path))
	if err != nil {
		return fmt.Errorf("read back %s: %w", path, err)
	}
	if before != after {
		return fmt.Errorf("read back %s: it holds %s, but %s was written", path, after, before)
	}
	r.Rows = before.rows
	r.File = filepath.Base(path)
	if r.Sum, err = durable.OS.SyncFile(path); err != nil {
		return err
	}
	_, err = w.conn.ExecContext(ctx, "DROP TABLE "+cellsName(i))
	return err
}

// fingerprint is a relation's row count, types and content, independent of order.
type fingerprint struct {
	rows    int64
	types   string
	content string // the sum of the rows' hashes: exact, also for DOUBLE
}

func (f fingerprint) String() string {
	return fmt.Sprintf("%d rows (%s) with hash sum %s", f.rows, f.types, f.content)
}

func (w *worker) fingerprint(ctx context.Context, v ViewJob, relation string) (fingerprint, error) {
	var f fingerprint
	err := w.conn.QueryRowContext(ctx, "SELECT string_agg(column_name || ' ' || column_type, ', ') FROM (DESCRIBE FROM "+relation+")").Scan(&f.types)
	if err != nil {
		return f, err
	}
	err = w.conn.QueryRowContext(ctx, "SELECT count(*), coalesce(sum(hash("+names("", v.columns())+")), 0)::VARCHAR FROM "+relation).Scan(&f.rows, &f.content)
	return f, err
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
