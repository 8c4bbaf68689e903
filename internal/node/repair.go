package node

import (
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/batch/archive"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/event"
	"duet/speed/eventlog"
)

// repairer rebuilds a damaged file of the archive by folding the log from its
// first message. Verdicts depend on everything before the file, so a trimmed log
// is not enough.
type repairer struct {
	log     *eventlog.Log
	schemas map[string]*event.Schema
	spill   string
}

// Repair writes the rows of f, as the log gives them, to path. It fails if the log
// was trimmed or the stream has been removed.
func (r *repairer) Repair(ctx context.Context, f archive.File, path string) error {
	if first := r.log.First(); first.Sequence() != 1 || r.log.Continues() != 0 {
		return fmt.Errorf("the log begins at %s; deciding which events are duplicates takes every message before it", first)
	}
	columns := map[string]string{archive.Rejects: event.RejectSQLColumns, archive.Lines: event.LinesSQLColumns, archive.Envelopes: event.EnvelopesSQLColumns}[f.Data]
	if columns == "" {
		s := r.schemas[f.Data]
		if s == nil {
			return fmt.Errorf("the project has no stream %q", f.Data)
		}
		columns = s.SQLColumns()
	}
	db, err := duck.Open(duck.Config{MemoryLimit: "1GB", TempDir: r.spill})
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "CREATE TABLE rows ("+columns+")"); err != nil {
		return err
	}
	if err := r.fold(ctx, conn, f); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "COPY (SELECT "+schemas.SpelledSQL+" FROM rows) TO "+duck.Literal(path)+" (FORMAT parquet, COMPRESSION zstd)")
	return err
}

// fold loads the rows of f from the log into the table rows.
func (r *repairer) fold(ctx context.Context, conn *duck.Conn, f archive.File) error {
	from, through := f.From, f.Through
	source, err := r.log.Read(ctx, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	sequencer, batch := event.NewSequencer(r.schemas, event.NewState()), event.NewBatch(memory.DefaultAllocator)
	defer batch.Release()
	flush := func(keep bool) error {
		defer batch.Reset()
		if !keep {
			return nil
		}
		if rec := recordOf(batch, f.Data); rec != nil {
			return conn.LoadArrow(ctx, "rows", rec)
		}
		return nil
	}
	for at := schemas.Position(0); at < through; {
		m, err := source.Next(ctx)
		if err != nil {
			return err
		}
		// End a batch at the file's beginning, so that it has rows of f only.
		if at <= from && m.At > from {
			if err := flush(false); err != nil {
				return err
			}
		}
		if m.Control == "" && m.At <= through {
			sequencer.Apply(event.Message{Stream: m.Stream, At: m.At, Time: m.Time, Data: m.Data}, batch)
		}
		if at = m.At; batch.Full() || at >= through {
			if err := flush(at > from); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordOf returns a batch's rows of one data set of the archive; nil if none.
func recordOf(b *event.Batch, data string) arrow.RecordBatch {
	switch data {
	case archive.Rejects:
		return b.RejectRecord()
	case archive.Lines:
		return b.LinesRecord()
	case archive.Envelopes:
		return b.EnvelopesRecord()
	}
	for _, s := range b.Records() {
		if s.Stream == data {
			return s.Record
		}
	}
	return nil
}
