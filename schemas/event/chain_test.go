package event_test

import (
	"strings"
	"testing"

	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/source"
)

// Package source begins a file's chain with ChainStart.
func TestChainStartIsWhereFilesBegin(t *testing.T) {
	s := &project.Stream{
		Name: "visits", Columns: []project.Column{{Name: "a", From: "a", Type: project.Type{Kind: project.Integer}}},
		CSV: project.CSV{Delimiter: ",", Decimal: ".", Encoding: "utf-8", Nulls: []string{""}},
	}
	r, err := source.Open(strings.NewReader(`{"a":1}`+"\n"), s, source.Options{Format: source.NDJSON})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rec, err := r.Next()
	if err != nil || rec.Chunk != event.ChainStart("visits") || source.ChunkLines != event.LinesInChunk {
		t.Fatalf("the first chunk is %x, not %x (%v)", rec.Chunk, event.ChainStart("visits"), err)
	}
}
