package source

import "io"

// arenaBytes is the size of the blocks that a Batch allocates.
const arenaBytes = 1 << 20

// Batch holds records that stay valid until Reset. The zero value is ready.
type Batch struct {
	Records []Record
	Bytes   int // total length of the records' JSON
	arena   []byte
}

// Reset empties the batch and reuses its memory. Its records become invalid.
func (b *Batch) Reset() {
	b.Records, b.Bytes, b.arena = b.Records[:0], 0, b.arena[:0]
}

// Runs yields the records in order, one run for each chunk.
func (b *Batch) Runs(yield func(chunk [16]byte, records []Record) bool) {
	for from := 0; from < len(b.Records); {
		to := from + 1
		for to < len(b.Records) && b.Records[to].Chunk == b.Records[from].Chunk {
			to++
		}
		if !yield(b.Records[from].Chunk, b.Records[from:to]) {
			return
		}
		from = to
	}
}

func (b *Batch) add(rec Record) {
	if cap(b.arena)-len(b.arena) < len(rec.JSON) {
		b.arena = make([]byte, 0, max(arenaBytes, len(rec.JSON))) // records keep the old block alive
	}
	from := len(b.arena)
	b.arena = append(b.arena, rec.JSON...)
	rec.JSON = b.arena[from:len(b.arena):len(b.arena)]
	b.Records = append(b.Records, rec)
	b.Bytes += len(rec.JSON)
}

// ReadBatch adds records to b until it holds the given number of records or bytes.
// It returns io.EOF if there was no record to add. After any other error, b holds
// the records before it.
func (r *Reader) ReadBatch(b *Batch, records, bytes int) error {
	before := len(b.Records)
	for len(b.Records) < records && b.Bytes < bytes {
		rec, err := r.Next()
		if err == io.EOF && len(b.Records) > before {
			return nil
		}
		if err != nil {
			return err
		}
		b.add(rec)
	}
	return nil
}
