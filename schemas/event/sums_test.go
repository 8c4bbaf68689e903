package event

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"duet/schemas/project"
)

// The sums are exact, of accepted events alone, and of one batch.
func TestColumnSumsAreExact(t *testing.T) {
	s := &project.Stream{Name: "s", ID: []string{"id"}}
	types := []string{"BIGINT", "TINYINT", "BIGINT", "DECIMAL(28,4)", "DECIMAL(18,0)", "DECIMAL(29,0)", "DOUBLE", "VARCHAR"}
	for i, sql := range types {
		s.Columns = append(s.Columns, project.Column{Name: []string{"id", "small", "large", "money", "whole", "wide", "inexact", "text"}[i], Type: mustType(sql)})
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	digits := func(n int) string {
		text := fmt.Sprint(1 + r.IntN(9))
		for len(text) < n {
			text += fmt.Sprint(r.IntN(10))
		}
		return []string{"", "-"}[r.IntN(2)] + text
	}
	q := NewSequencer(map[string]*Schema{"s": NewSchema(s)}, NewState())
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	for message := uint64(1); message < 20; message++ {
		want := map[string]*big.Rat{"id": {}, "small": {}, "large": {}, "money": {}, "whole": {}}
		var records []string
		for range 50 {
			values := map[string]string{
				"id": fmt.Sprint(r.Int64()), "small": fmt.Sprint(int8(r.Uint32())), "large": fmt.Sprint(int64(r.Uint64())),
				"money": digits(24) + "." + fmt.Sprintf("%04d", r.IntN(10000)), "whole": digits(18), "wide": digits(29), "inexact": "0.5", "text": `"7"`,
			}
			if r.IntN(10) == 0 {
				values["money"] = "null"
			}
			var members []string
			for name, v := range values {
				members = append(members, fmt.Sprintf("%q:%s", name, v))
				if sum := want[name]; sum != nil && v != "null" {
					x, _ := new(big.Rat).SetString(v)
					sum.Add(sum, x)
				}
			}
			record := "{" + strings.Join(members, ",") + "}"
			records = append(records, record, record, strings.Replace(record, `"7"`, "7", 1)) // accepted, duplicate, rejected
		}
		if a := one(q, b, "s", message, []Run{{Count: uint32(len(records))}}, records...); a.Accepted != 50 || a.Duplicate != 50 || a.Rejected != 50 {
			t.Fatalf("seed %d: %+v", seed, a)
		}
		b.Records() // finishing the batch keeps the sums
		sums := b.Accounts()[0].Sums
		if len(sums) != len(want) {
			t.Fatalf("the sums are %v, want those of %v", sums, want)
		}
		for _, got := range sums {
			if x, _ := new(big.Rat).SetString(got.String()); x.Cmp(want[got.Column]) != 0 {
				t.Errorf("seed %d, message %d: the sum of %s is %s, want %s", seed, message, got.Column, got, want[got.Column].FloatString(4))
			}
		}
	}
	one(q, b, "s", 99, []Run{{Count: 1}}, `{"id":"x"}`)
	if sums := b.Accounts()[0].Sums; len(sums) != 0 {
		t.Errorf("a batch without accepted events has the sums %v", sums)
	}
}
