package archive

import (
	"context"
	"fmt"
	"math/bits"
	"os"

	"duet/internal/base/duck"
	"duet/internal/base/failpoint"
	"duet/schemas"
)

// fpMerged is the failpoint between a merged file's COPY and reading it back.
var fpMerged = failpoint.New("archive.merged")

// MergeOnce merges one run of adjacent small files of one data set into one
// file. It returns false if there is no such run.
//
// It merges files of similar size (within a factor of MergeFiles), so a row is
// rewritten about once each time the archive has grown MergeFiles-fold, until its
// file reaches MergeBelow.
func (a *Archive) MergeOnce(ctx context.Context) (bool, error) {
	s := a.Snapshot()
	defer s.Release()
	run := a.mergeable(s.Files)
	if run == nil {
		return false, nil
	}
	if err := a.Verify(ctx, run); err != nil {
		return false, err
	}
	f, done, err := a.mergeFiles(ctx, run)
	if err != nil {
		return false, err
	}
	defer done()
	err = a.publish(Merge, func(m *Manifest, r *record) error {
		for _, g := range run {
			if !m.lists(g.Path) {
				return fmt.Errorf("archive: %s was replaced while it was merged; the next merge starts over", g.Path)
			}
			r.Removed = append(r.Removed, g.Path)
		}
		r.Added = []File{f}
		return nil
	})
	return err == nil, err
}

// mergeable returns a run of adjacent files to merge, or nil. It tries the
// smallest size class first, so that new files are merged before old ones.
func (a *Archive) mergeable(files []File) []File {
	step := bits.Len(uint(a.cfg.MergeFiles)) - 1
	for limit := int64(64 << 10); ; limit <<= max(step, 1) {
		limit = min(limit, a.cfg.MergeBelow)
		start := 0
		for i := range files {
			if files[i].Bytes >= limit || files[i].Data != files[start].Data {
				start = i
			}
			if files[i].Bytes >= limit {
				start = i + 1
				continue
			}
			if i-start+1 >= a.cfg.MergeFiles {
				return files[start : i+1]
			}
		}
		if limit == a.cfg.MergeBelow {
			return nil
		}
	}
}

// mergeFiles writes the rows of adjacent files into one. The caller calls the
// returned function after publishing.
func (a *Archive) mergeFiles(ctx context.Context, run []File) (File, func(), error) {
	paths := make([]string, len(run))
	var rows int64
	content := "0"
	for i, f := range run {
		paths[i] = a.path(f.Path)
		rows += f.Rows
		content = addDecimals(content, f.Content)
	}
	tmp := a.tempFile()
	defer os.Remove(tmp) // already gone after a success
	// DuckDB preserves insertion order, so rows stay in order of position.
	copySQL := "COPY (FROM " + duck.Parquet(paths...) + ") TO " + duck.Literal(tmp) + " (FORMAT parquet, COMPRESSION zstd)"
	_, err := a.db.ExecContext(ctx, copySQL)
	if err == nil {
		err = fpMerged.Hit()
	}
	if err != nil {
		return File{}, nil, fmt.Errorf("archive: merge %d files of %s: %w", len(run), run[0].Data, err)
	}
	if err := a.inOrder(ctx, tmp); err != nil {
		return File{}, nil, err
	}
	f, done, err := a.adopt(ctx, run[0].Data, tmp, run[0].From, run[len(run)-1].Through)
	if err != nil {
		return File{}, nil, err
	}
	if f.Rows != rows || f.Content != content {
		done()
		return File{}, nil, fmt.Errorf("archive: merge %d files of %s: %d rows with content hash %s became %d with %s", len(run), f.Data, rows, content, f.Rows, f.Content)
	}
	return f, done, nil
}

// inOrder fails if the rows of a file are not in order of position.
func (a *Archive) inOrder(ctx context.Context, path string) error {
	var misplaced int64
	query := "SELECT count(*) FROM (SELECT " + schemas.PackedSQL + " AS p, " + schemas.ColRecord + " AS r, lag(p) OVER w AS pp, lag(r) OVER w AS pr " +
		"FROM read_parquet(" + duck.Literal(path) + ", file_row_number = true, hive_partitioning = false) WINDOW w AS (ORDER BY file_row_number)) WHERE pp IS NOT NULL AND (p, r) < (pp, pr)"
	if err := a.db.QueryRowContext(ctx, query).Scan(&misplaced); err != nil {
		return fmt.Errorf("archive: read back %s: %w", path, err)
	}
	if misplaced > 0 {
		return fmt.Errorf("archive: %s has %d rows out of order of position", path, misplaced)
	}
	return nil
}
