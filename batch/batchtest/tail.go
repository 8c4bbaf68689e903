package batchtest

import (
	"context"
	"fmt"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/schemas"
)

// NextBlock implements [archive.Tail].
func (w *World) NextBlock(ctx context.Context) (archive.Block, error) {
	if err := w.fail("block"); err != nil {
		return archive.Block{}, err
	}
	for {
		w.mu.Lock()
		grown := w.grown
		from := w.released.Sequence()
		through := from + uint64(w.cfg.Block)
		for _, m := range w.log.Marks {
			if m > from {
				through = min(through, m)
			}
		}
		last := w.log.Last
		w.mu.Unlock()
		if through <= last {
			return w.block(At(through)), nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return archive.Block{}, context.Cause(ctx)
		}
	}
}

func (w *World) block(through schemas.Position) archive.Block {
	w.mu.Lock()
	from := w.released
	w.mu.Unlock()
	b := archive.Block{ID: through.Sequence(), From: from, Through: through, Accounts: map[string]schemas.Account{}, Producers: map[string]uint64{"shop": through.Sequence()}}
	if a := w.account(from, through); a.Received > 0 {
		b.Accounts[Stream] = a
		if err := w.db.QueryRow("SELECT count(DISTINCT _duet_at) FROM verdicts WHERE " + within(from, through)).Scan(&b.Envelopes); err != nil {
			panic(err) // the world is broken, not what is tested
		}
	}
	return b
}

// spelled selects the position as archive files have it.
const spelled = "0::USMALLINT AS _duet_lane, (_duet_at >> 48)::UINTEGER AS _duet_incarnation, (_duet_at & ((1::BIGINT << 48) - 1))::BIGINT AS _duet_sequence, _duet_record, 0::INTEGER AS _duet_part"

// ExportBlock implements [archive.Tail].
func (w *World) ExportBlock(ctx context.Context, b archive.Block, data, path string) (int64, error) {
	return w.export(ctx, data, b.From, b.Through, path)
}

// Repair implements [archive.Repairer].
func (w *World) Repair(ctx context.Context, f archive.File, path string) error {
	_, err := w.export(ctx, f.Data, f.From, f.Through, path)
	return err
}

func (w *World) export(ctx context.Context, data string, after, through schemas.Position, path string) (int64, error) {
	var query string
	switch data {
	case Stream:
		query = "SELECT * EXCLUDE (_duet_at, _duet_record), " + spelled + " FROM events WHERE " + within(after, through) + " ORDER BY _duet_at, _duet_record"
	case archive.Rejects:
		query = "SELECT '" + Stream + "' AS stream, verdict AS reason, " + spelled + " FROM verdicts WHERE verdict = 'rejected' AND " + within(after, through) + " ORDER BY _duet_at, _duet_record"
	case archive.Envelopes:
		query = "SELECT stream, received, duplicate, rejected, " + spelled + " FROM (SELECT '" + Stream + "' AS stream, count(*) AS received, count(*) FILTER (verdict = 'duplicate') AS duplicate, " +
			"count(*) FILTER (verdict = 'rejected') AS rejected, _duet_at, 0 AS _duet_record FROM verdicts WHERE " + within(after, through) + " GROUP BY _duet_at) ORDER BY _duet_at"
	default:
		return 0, fmt.Errorf("no data set %s", data)
	}
	res, err := w.db.ExecContext(ctx, "COPY ("+query+") TO "+duck.Literal(path)+" (FORMAT parquet, COMPRESSION zstd)")
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// ReleaseBlock implements [archive.Tail].
func (w *World) ReleaseBlock(_ context.Context, id uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released = max(w.released, At(id))
	return nil
}
