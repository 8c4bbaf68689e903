package archive

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"os"
	"slices"

	"duet/internal/base/duck"
	"duet/internal/base/failpoint"
	"duet/schemas"
)

// The failpoints of a commit; those of package durable lie between them.
var (
	fpExported  = failpoint.New("archive.exported")  // DuckDB has written a data set, unsynced
	fpAdopted   = failpoint.New("archive.adopted")   // a file is durable, no manifest names it
	fpManifest  = failpoint.New("archive.manifest")  // all files are durable, the manifest is not written
	fpPublished = failpoint.New("archive.published") // the manifest is durable, the block not released
	fpReleased  = failpoint.New("archive.released")  // the block is released
)

// Block is a closed span of the tail. It becomes one file for each data set.
type Block struct {
	ID      uint64           // assigned by the tail; identifies the block in its calls
	From    schemas.Position // exclusive: the end of the previous block
	Through schemas.Position // inclusive
	// Accounts has the account of this span for each stream that received events
	// in it. A stream's file has Accepted rows; the rejects' file has the Rejected
	// of all streams.
	Accounts map[string]schemas.Account
	// Lines is the number of digests of file lines that the span added, and
	// Envelopes the number of runs of its messages: the rows of those data sets.
	Lines, Envelopes int64
	// Producers has the last number of each producer that sent in the span.
	Producers map[string]uint64
}

// Tail is the seam to the live half's store, which keeps accepted rows until a
// manifest covers them. Blocks come in order of position, without gaps.
type Tail interface {
	// NextBlock waits for the oldest closed block that is not released. Until it
	// is released, NextBlock returns the same block again.
	NextBlock(ctx context.Context) (Block, error)
	// ExportBlock writes the block's rows of one data set (a stream's name,
	// [Rejects], [Lines] or [Envelopes]) to path as zstd Parquet, sorted by
	// position: the columns of the rows in memory, with _duet_at and _duet_record
	// replaced by the position as the last five columns (_duet_lane,
	// _duet_incarnation, _duet_sequence, _duet_record, _duet_part). It returns the
	// number of rows.
	ExportBlock(ctx context.Context, b Block, data, path string) (rows int64, err error)
	// ReleaseBlock drops the block's rows: a manifest covers them.
	ReleaseBlock(ctx context.Context, id uint64) error
}

// CommitBlock adds a block to the archive, exactly once: a block that is
// published already is only released. After an error the caller can retry with
// the same block, except after a [*FencedError].
func (a *Archive) CommitBlock(ctx context.Context, tail Tail, b Block) error {
	a.publishing.Lock()
	err := a.refresh()
	a.publishing.Unlock()
	if err != nil {
		return err
	}
	if b.Through > a.Through() {
		if err := a.commit(ctx, tail, b); err != nil {
			return err
		}
	}
	if err := tail.ReleaseBlock(ctx, b.ID); err != nil {
		return fmt.Errorf("archive: release block %d: %w", b.ID, err)
	}
	return fpReleased.Hit()
}

// commit writes the block's files and publishes the manifest that names them.
func (a *Archive) commit(ctx context.Context, tail Tail, b Block) error {
	if have := a.Through(); b.From != have {
		return &GapError{Have: have, Next: b.From}
	}
	want := map[string]int64{Lines: b.Lines, Envelopes: b.Envelopes}
	for stream, acc := range b.Accounts {
		if !acc.Balanced() {
			return fmt.Errorf("archive: block after %s through %s: the account of %s does not balance: %+v", b.From, b.Through, stream, acc)
		}
		want[stream] = acc.Accepted
		want[Rejects] += acc.Rejected
	}
	var files []File
	for _, data := range slices.Sorted(maps.Keys(want)) {
		if want[data] == 0 {
			continue
		}
		f, done, err := a.export(ctx, tail, b, data, want[data])
		if err != nil {
			return err
		}
		defer done()
		files = append(files, f)
	}
	if err := a.checkAccounts(ctx, b, files); err != nil {
		return err
	}
	return a.publish(Commit, func(m *Manifest, r *record) error {
		if have := m.Through.Position(); b.From != have {
			return &GapError{Have: have, Next: b.From}
		}
		cut, err := m.cut(b.Through)
		if err != nil {
			return err
		}
		r.Through, r.Added, r.Producers = cut, files, maps.Clone(b.Producers)
		r.Streams = map[string]Totals{}
		sums := map[string]map[string]string{}
		for _, f := range files {
			sums[f.Data] = f.Sums
		}
		for stream, acc := range b.Accounts {
			r.Streams[stream] = m.Streams[stream].Plus(Totals{Account: acc, Sums: sums[stream]})
		}
		return nil
	})
}

// checkAccounts counts the events of a block in its files, by stream and verdict,
// and fails if the block's accounts say otherwise.
func (a *Archive) checkAccounts(ctx context.Context, b Block, files []File) error {
	counted := map[string]schemas.Account{}
	for _, f := range files {
		switch f.Data {
		case Rejects, Lines:
		case Envelopes:
			envelopes, err := CountEnvelopes(ctx, a.db, duck.Parquet(a.path(f.Path)))
			if err != nil {
				return fmt.Errorf("archive: block after %s through %s: count its events: %w", b.From, b.Through, err)
			}
			for stream, c := range envelopes {
				c.Accepted = counted[stream].Accepted
				counted[stream] = c
			}
		default:
			c := counted[f.Data]
			c.Accepted = f.Rows
			counted[f.Data] = c
		}
	}
	for _, stream := range slices.Sorted(maps.Keys(b.Accounts)) {
		want := b.Accounts[stream]
		if counted[stream] != want {
			return fmt.Errorf("archive: block after %s through %s: its files hold %+v events of %s, its account says %+v", b.From, b.Through, counted[stream], stream, want)
		}
		delete(counted, stream)
	}
	if len(counted) > 0 {
		return fmt.Errorf("archive: block after %s through %s: its files hold events of %v, which have no account", b.From, b.Through, slices.Sorted(maps.Keys(counted)))
	}
	return nil
}

// CountEnvelopes counts received, duplicate and rejected events by stream, over a
// relation with the columns of [Envelopes]. Accepted stays 0.
func CountEnvelopes(ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, relation string) (map[string]schemas.Account, error) {
	rows, err := db.QueryContext(ctx, "SELECT stream, sum(received)::BIGINT, sum(duplicate)::BIGINT, sum(rejected)::BIGINT FROM "+relation+" GROUP BY stream")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]schemas.Account{}
	for rows.Next() {
		var stream string
		var c schemas.Account
		if err := rows.Scan(&stream, &c.Received, &c.Duplicate, &c.Rejected); err != nil {
			return nil, err
		}
		out[stream] = c
	}
	return out, rows.Err()
}

// export has the tail write one data set and adopts the file. The caller calls
// the returned function after publishing.
func (a *Archive) export(ctx context.Context, tail Tail, b Block, data string, want int64) (File, func(), error) {
	tmp := a.tempFile()
	defer os.Remove(tmp) // already gone after a success
	rows, err := tail.ExportBlock(ctx, b, data, tmp)
	if err == nil {
		err = fpExported.Hit()
	}
	if err != nil {
		return File{}, nil, fmt.Errorf("archive: export %s of block %d: %w", data, b.ID, err)
	}
	f, done, err := a.adopt(ctx, data, tmp, b.From, b.Through)
	if err != nil {
		return File{}, nil, err
	}
	if f.Rows != want || rows != want {
		done()
		return File{}, nil, fmt.Errorf("archive: block after %s through %s of %s: the tail wrote %d rows, the file has %d, the account says %d", b.From, b.Through, data, rows, f.Rows, want)
	}
	return f, done, nil
}
