package archive

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"duet/internal/base/failpoint"
	"duet/schemas"
)

// The named steps of a commit; durable's own steps lie between.
var (
	fpExported  = failpoint.New("archive.exported")  // a data set written by DuckDB, unsynced
	fpAdopted   = failpoint.New("archive.adopted")   // a file durable, named by no manifest
	fpManifest  = failpoint.New("archive.manifest")  // all files durable, the manifest not written
	fpPublished = failpoint.New("archive.published") // the manifest durable, the block not released
	fpReleased  = failpoint.New("archive.released")  // all done
)

// Block is a closed span of the tail that becomes one file a data set.
type Block struct {
	ID      uint64           // of the tail; names the block in its calls
	From    schemas.Position // exclusive: where the block before ended
	Through schemas.Position // inclusive
	// Accounts of the streams that received something in the span, for the span
	// alone. A stream's file has Accepted rows, the rejects' file all Rejected.
	Accounts map[string]schemas.Account
	// Lines is how many digests of file lines the span added.
	Lines int64
	// Producers has the last number of each producer that sent in the span.
	Producers map[string]uint64
}

// Tail is where accepted rows wait until a manifest covers them: the store of
// the live half. Blocks come in order of position, without gaps.
type Tail interface {
	// NextBlock waits for the oldest closed block that was not released. It may
	// return the same block again.
	NextBlock(ctx context.Context) (Block, error)
	// ExportBlock writes the block's rows of one data set (a stream's name,
	// [Rejects] or [Lines]) to path as zstd Parquet, sorted by position: the
	// columns of the rows in memory, with the position spelled out as the last
	// five columns (_duet_lane, _duet_incarnation, _duet_sequence, _duet_record,
	// _duet_part) in place of _duet_at and _duet_record. It returns the rows written.
	ExportBlock(ctx context.Context, b Block, data, path string) (rows int64, err error)
	// ReleaseBlock lets the rows go: a manifest covers them.
	ReleaseBlock(ctx context.Context, id uint64) error
}

// CommitBlock brings a block into the archive, exactly once: a block that is
// there already, whoever reported an error about it, is only released. After an
// error nothing is lost and the same block can be tried again, except after a
// [*FencedError].
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
	want := map[string]int64{Lines: b.Lines}
	for stream, acc := range b.Accounts {
		if !acc.Balanced() {
			return fmt.Errorf("archive: block after %s through %s: the account of %s does not add up: %+v", b.From, b.Through, stream, acc)
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
	return a.publish(Commit, func(m *Manifest) error {
		if have := m.Through.Position(); b.From != have {
			return &GapError{Have: have, Next: b.From}
		}
		cut, err := m.cut(b.Through)
		if err != nil {
			return err
		}
		m.Through = cut
		m.Files = append(m.Files, files...)
		sums := map[string]map[string]string{}
		for _, f := range files {
			sums[f.Data] = f.Sums
		}
		for stream, acc := range b.Accounts {
			m.Streams[stream] = m.Streams[stream].Plus(Totals{Account: acc, Sums: sums[stream]})
		}
		for producer, last := range b.Producers {
			m.Producers[producer] = max(m.Producers[producer], last)
		}
		return nil
	})
}

// export has the tail write one data set and brings the file in.
func (a *Archive) export(ctx context.Context, tail Tail, b Block, data string, want int64) (File, func(), error) {
	tmp := a.tempFile()
	defer os.Remove(tmp) // gone already when all went well
	rows, err := tail.ExportBlock(ctx, b, data, tmp)
	if err == nil {
		err = fpExported.Hit()
	}
	if err != nil {
		return File{}, nil, fmt.Errorf("archive: export %s of block %d: %w", data, b.ID, err)
	}
	f, done, err := a.bringIn(ctx, data, tmp, b.From, b.Through)
	if err != nil {
		return File{}, nil, err
	}
	if f.Rows != want || rows != want {
		done()
		return File{}, nil, fmt.Errorf("archive: block after %s through %s: %d rows of %s were written, %d are in the file, %d are accounted for: refused", b.From, b.Through, rows, data, f.Rows, want)
	}
	return f, done, nil
}
