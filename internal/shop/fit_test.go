//go:build !race

package shop_test

import (
	"strings"
	"testing"

	"duet/internal/shop"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/retail"
)

// TestTheShopSendsWhatThePackagedProjectReads decodes most of a week as the
// server does: only malformed order lines are rejected.
func TestTheShopSendsWhatThePackagedProjectReads(t *testing.T) {
	p, faults := project.Load(retail.Files())
	if p == nil {
		t.Fatal(faults)
	}
	decoders := map[string]*event.Decoder{}
	for _, name := range shop.Streams {
		if p.Stream(name) == nil {
			t.Fatalf("the packaged project has no stream %s", name)
		}
		decoders[name] = event.NewDecoder(event.NewSchema(p.Stream(name)))
	}
	s := shop.New(shop.Config{Seed: 11})
	refused := map[string]int{}
	const events = 60_000
	for range events {
		e := s.Next()
		values, reject := decoders[e.Stream].Decode(e.JSON, e.At)
		if reject != nil {
			refused[e.Stream]++
			continue
		}
		extra := values[len(values)-1]
		if extra != "NULL" && !(e.Stream == "orders" && strings.HasPrefix(extra, `{"returns":`)) {
			t.Fatalf("%s has no column for %s", e.Stream, extra)
		}
	}
	if refused["orders"] < 5 || refused["orders"] > events/500 || refused["payments"]+refused["stock_moves"] > 0 {
		t.Errorf("refused: %v", refused)
	}
}
