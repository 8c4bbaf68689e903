package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"duet/internal/base/duck"
	"duet/schemas"
)

// Block is a closed span of positions, ready to become archive files: every
// message in (After, Through] has its verdict in here. It is a copy; whoever
// asked for it owns it.
type Block struct {
	ID      uint64
	After   schemas.Position // exclusive
	Through schemas.Position // inclusive
	// Rows counts accepted rows by stream, and rows of RejectsSet and LinesSet.
	// A set without rows has no entry and nothing to export.
	Rows      map[string]int64
	Bytes     int64                      // of Arrow data, about
	Accounts  map[string]schemas.Account // of this span, by stream
	Producers map[string]uint64          // last number of each producer seen in this span
	Newest    map[string]time.Time       // newest event time accepted, by stream
}

func newBlock(id int64, after schemas.Position) *Block {
	return &Block{
		ID: uint64(id), After: after, Rows: map[string]int64{}, Accounts: map[string]schemas.Account{},
		Producers: map[string]uint64{}, Newest: map[string]time.Time{},
	}
}

func (b *Block) clone() Block {
	c := *b
	c.Rows, c.Accounts = maps.Clone(b.Rows), maps.Clone(b.Accounts)
	c.Producers, c.Newest = maps.Clone(b.Producers), maps.Clone(b.Newest)
	return c
}

func (b *Block) total() (rows int64) {
	for _, n := range b.Rows {
		rows += n
	}
	return rows
}

// TailUse is what no archive manifest covers yet.
type TailUse struct {
	Rows, Bytes         int64
	RowLimit, ByteLimit int64
	Blocks              int // closed ones that wait
}

// admit refuses a batch while the tail is full, and then makes sure that there
// is a closed block for the archive to take.
func (w *writer) admit(in *load) error {
	rows, bytes := in.rows()
	s := w.s
	s.mu.Lock()
	use, waiting := s.tail, len(s.closed)
	s.mu.Unlock()
	// An empty tail takes any batch, or one could wait for ever.
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

// account notes an applied batch in the open block.
func (w *writer) account(in *load) {
	b := w.open
	for _, r := range in.sets {
		if n := r.rec.NumRows(); n > 0 {
			b.Rows[r.name] += n
		}
	}
	rows, bytes := in.rows()
	b.Bytes += bytes
	for stream, a := range in.accounts {
		sum := b.Accounts[stream]
		sum.Add(a)
		b.Accounts[stream] = sum
	}
	for p, n := range in.producers {
		b.Producers[p] = max(b.Producers[p], n)
	}
	b.Newest = newer(b.Newest, in.newest)
	w.s.mu.Lock()
	w.s.tail.Rows += rows
	w.s.tail.Bytes += bytes
	w.s.mu.Unlock()
}

// closeBigBlock closes the open block if it has outgrown its limits. The batch
// is applied already: a failure is tried again after the next one.
func (w *writer) closeBigBlock() {
	if w.open.total() >= w.s.cfg.BlockRows || w.open.Bytes >= w.s.cfg.BlockBytes {
		if err := w.closeBlock(); err != nil {
			w.s.cfg.Log.Warn("a block stays open beyond its size", "error", err)
		}
	}
}

// closeBlock ends the open block at the live-through, if it spans anything.
func (w *writer) closeBlock() error {
	if w.open.After == w.m.through {
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

// blockClosed hands the accounts of the block that was just split off to
// NextBlock.
func (w *writer) blockClosed() {
	b := w.open
	b.Through = w.m.through
	w.open = newBlock(w.m.layout.openBlock().id, w.m.through)
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.closed = append(w.s.closed, b)
	w.s.notifyBlocks()
}

// notifyBlocks wakes who waits for a block. mu is held.
func (s *Store) notifyBlocks() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// NextBlock waits for the oldest closed block that is not released. Until it
// is, the same block comes again.
func (s *Store) NextBlock(ctx context.Context) (Block, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		if len(s.closed) > 0 {
			defer s.mu.Unlock()
			return s.closed[0].clone(), nil
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Block{}, ctx.Err()
		case <-s.ctx.Done():
			return Block{}, ErrClosed
		}
	}
}

// Tail says how much waits for the archive.
func (s *Store) Tail() TailUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.tail
	u.RowLimit, u.ByteLimit, u.Blocks = s.cfg.TailRows, s.cfg.TailBytes, len(s.closed)
	return u
}

// ExportBlock writes the rows of one data set (a stream, RejectsSet or
// LinesSet) of a block that is not released to path, as zstd Parquet, in order
// of position: the columns in memory without _duet_at and _duet_record, then
// _duet_lane, _duet_incarnation, _duet_sequence, _duet_record, _duet_part.
// It returns the rows written; for none it writes no file. The file is not
// synced. The writer goes on meanwhile.
func (s *Store) ExportBlock(ctx context.Context, id uint64, set, path string) (rows int64, err error) {
	err = s.Read(ctx, func(sn *Snapshot) error {
		i := slices.IndexFunc(sn.m.layout.blocks, func(b block) bool { return uint64(b.id) == id })
		if i < 0 || sn.m.layout.blocks[i].through == 0 {
			return fmt.Errorf("store: block %d is not there or not closed; blocks are released in order, once", id)
		}
		table := sn.m.layout.blocks[i].tables[set]
		if table == "" {
			return nil
		}
		rows, err = sn.copy(ctx, "SELECT "+schemas.SpelledSQL+" FROM "+duck.Ident(table), path)
		return err
	})
	return rows, err
}

// ReleaseBlock drops the rows of the oldest closed block: a manifest covers
// them (H5). Rows that a rebuild needs are dropped when it has ended.
func (s *Store) ReleaseBlock(ctx context.Context, id uint64) error {
	return s.do(ctx, func(w *writer) error {
		s.mu.Lock()
		ok := len(s.closed) > 0 && s.closed[0].ID == id
		s.mu.Unlock()
		if !ok {
			return fmt.Errorf("store: block %d is not the oldest closed one; blocks are released in order, once", id)
		}
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
		s.tail.Rows -= b.total()
		s.tail.Bytes -= b.Bytes
		return nil
	})
}

// dropReleased takes released blocks, which are the oldest, out of the layout.
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

// hold keeps blocks in the layout, released or not, until unhold.
func (s *Store) hold(ctx context.Context) error {
	return s.do(ctx, func(w *writer) error { w.holds++; return nil })
}

func (s *Store) unhold() {
	// Fails only when the store is closed.
	_ = s.do(context.Background(), func(w *writer) error {
		if w.holds--; w.holds > 0 {
			return nil
		}
		if err := w.dropReleased(); err != nil {
			s.cfg.Log.Warn("released rows stay in memory until the next block is released", "error", err)
		}
		return nil
	})
}
