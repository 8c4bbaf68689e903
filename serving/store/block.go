package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/schemas"
)

// A Store is the tail that the archive takes its blocks from.
var _ archive.Tail = (*Store)(nil)

// tailBlock is a block of the tail with what it counts: every message in
// (From, Through] has its verdict in it.
type tailBlock struct {
	archive.Block
	rows, bytes int64 // of all data sets; bytes of Arrow data, about
	log         int64 // bytes of log messages
}

func newTailBlock(id int64, from schemas.Position) *tailBlock {
	return &tailBlock{Block: archive.Block{
		ID: uint64(id), From: from, Accounts: map[string]schemas.Account{}, Producers: map[string]uint64{},
	}}
}

// TailUse is what no archive manifest covers yet.
type TailUse struct {
	Rows, Bytes         int64
	RowLimit, ByteLimit int64
	Blocks              int // closed and not released
}

// admit refuses a batch while the tail is full, and then makes sure that there
// is a closed block for the archive to take.
func (w *writer) admit(in *microBatch) error {
	rows, bytes := in.rows()
	s := w.s
	s.mu.Lock()
	use, waiting := s.tail, len(s.closed)
	s.mu.Unlock()
	// An empty tail takes any batch; otherwise a large one could never be applied.
	if use.Rows == 0 || use.Rows+rows <= s.cfg.TailRows && use.Bytes+bytes <= s.cfg.TailBytes {
		return nil
	}
	if rows == 0 {
		return nil
	}
	if waiting == 0 {
		if err := w.closeBlock(); err != nil {
			return err
		}
	}
	return &TailFullError{Rows: use.Rows, Bytes: use.Bytes, RowLimit: s.cfg.TailRows, ByteLimit: s.cfg.TailBytes}
}

// account adds an applied batch to the counters of the open block.
func (w *writer) account(in *microBatch) {
	b := w.open
	rows, bytes := in.rows()
	b.rows += rows
	b.bytes += bytes
	b.log += in.log
	for _, r := range in.sets {
		switch r.name {
		case archive.Lines:
			b.Lines += r.rec.NumRows()
		case archive.Envelopes:
			b.Envelopes += r.rec.NumRows()
		}
	}
	for stream, a := range in.accounts {
		sum := b.Accounts[stream]
		sum.Add(a)
		b.Accounts[stream] = sum
	}
	for p, n := range in.producers {
		b.Producers[p] = max(b.Producers[p], n)
	}
	w.s.mu.Lock()
	w.s.tail.Rows += rows
	w.s.tail.Bytes += bytes
	w.s.mu.Unlock()
}

// closeBigBlock closes the open block if it exceeds its limits. The batch is
// applied already, so a failure is only logged; the next batch tries again.
func (w *writer) closeBigBlock() {
	if b := w.open; b.rows >= w.s.cfg.BlockRows || b.bytes >= w.s.cfg.BlockBytes || b.log >= w.s.cfg.BlockLog {
		if err := w.closeBlock(); err != nil {
			w.s.cfg.Log.Warn("a block stays open beyond its size", "error", err)
		}
	}
}

// closeBlock ends the open block at live-through, unless its span is empty.
func (w *writer) closeBlock() error {
	if w.open.From == w.m.through {
		return nil
	}
	m := w.next()
	w.splitBlock(m)
	if err := w.commit(m, func(context.Context) error { return nil }); err != nil {
		return err
	}
	w.blockClosed()
	return nil
}

// splitBlock ends the open block of m at m's live-through and begins the next.
func (w *writer) splitBlock(m *moment) {
	l := w.relayout(m)
	l.openBlock().through = m.through
	l.blocks = append(l.blocks, block{id: w.s.ids.Add(1), after: m.through})
}

// blockClosed passes the block that was just split off to NextBlock.
func (w *writer) blockClosed() {
	b := w.open
	b.Through = w.m.through
	w.open = newTailBlock(w.m.layout.openBlock().id, w.m.through)
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.closed = append(w.s.closed, b)
	close(w.s.changed)
	w.s.changed = make(chan struct{})
}

// NextBlock waits for the oldest closed block that is not released. It returns
// the same block until that is released; the caller owns the copy.
func (s *Store) NextBlock(ctx context.Context) (archive.Block, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		if len(s.closed) > 0 {
			defer s.mu.Unlock()
			b := s.closed[0].Block
			b.Accounts, b.Producers = maps.Clone(b.Accounts), maps.Clone(b.Producers)
			return b, nil
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return archive.Block{}, ctx.Err()
		case <-s.ctx.Done():
			return archive.Block{}, ErrClosed
		}
	}
}

// Tail returns how much is not archived yet.
func (s *Store) Tail() TailUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.tail
	u.RowLimit, u.ByteLimit, u.Blocks = s.cfg.TailRows, s.cfg.TailBytes, len(s.closed)
	return u
}

// ExportBlock writes the rows of one data set (a stream, archive.Rejects, Lines or
// Envelopes) of a block that is not released to path, as zstd Parquet, in
// order of position: the columns in memory without _duet_at and _duet_record,
// then _duet_lane, _duet_incarnation, _duet_sequence, _duet_record, _duet_part.
// It returns the number of rows; if that is 0 it writes no file. The file is not
// synced. The writer is not held up.
func (s *Store) ExportBlock(ctx context.Context, b archive.Block, data, path string) (rows int64, err error) {
	err = s.exports.read(ctx, func(sn *Snapshot) error {
		i := slices.IndexFunc(sn.m.layout.blocks, func(have block) bool { return uint64(have.id) == b.ID })
		if i < 0 || sn.m.layout.blocks[i].through == 0 {
			return fmt.Errorf("store: block %d does not exist or is not closed; blocks are released in order, once", b.ID)
		}
		table := sn.m.layout.blocks[i].tables[data]
		if table == "" {
			return nil
		}
		rows, err = sn.copy(ctx, "SELECT "+schemas.SpelledSQL+" FROM "+duck.Ident(table), path)
		return err
	})
	if duck.OutOfMemory(err) {
		// A full tail is never applied to, so that this is where a store without
		// memory must get some.
		_ = s.do(ctx, func(w *writer) error { return w.freeMemory(&w.exporting, err) })
	}
	return rows, err
}

// ReleaseBlock drops the rows of the oldest closed block: a manifest covers
// them (H5). Rows that a rebuild needs are dropped when it ends.
func (s *Store) ReleaseBlock(ctx context.Context, id uint64) error {
	return s.do(ctx, func(w *writer) error {
		s.mu.Lock()
		ok := len(s.closed) > 0 && s.closed[0].ID == id
		s.mu.Unlock()
		if !ok {
			return fmt.Errorf("store: block %d is not the oldest closed one; blocks are released in order, once", id)
		}
		w.exporting.failures = 0
		w.released = append(w.released, int64(id))
		if w.holds == 0 {
			if err := w.dropReleased(); err != nil {
				w.released = w.released[:len(w.released)-1]
				return err
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		b := s.closed[0]
		s.closed = s.closed[1:]
		s.tail.Rows -= b.rows
		s.tail.Bytes -= b.bytes
		return nil
	})
}

// dropReleased removes released blocks, which are the oldest, from the layout.
func (w *writer) dropReleased() error {
	if len(w.released) == 0 {
		return nil
	}
	m := w.next()
	l := w.relayout(m)
	var tables []string
	for _, id := range w.released {
		b := l.blocks[0]
		if b.id != id {
			return fmt.Errorf("store: block %d is not the oldest one", id)
		}
		tables = append(tables, slices.Sorted(maps.Values(b.tables))...)
		l.archived = b.through
		l.blocks = l.blocks[1:]
	}
	if err := w.commit(m, func(ctx context.Context) error { return w.drop(ctx, tables) }); err != nil {
		return err
	}
	w.released = nil
	return nil
}
