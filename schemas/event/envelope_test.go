package event

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"
)

// The package comment's example is the encoding.
func TestEnvelopeIsAsDrawn(t *testing.T) {
	got := AppendEnvelope(nil, "s", []Run{{Producer: "p", First: 7, Count: 2}}, [][]byte{[]byte(`{}`), []byte(`{"a":1}`)})
	want := strings.Join([]string{
		"44554501", "CHECKSUM", "0200000001000000", "0173", "017007020000", "0200000009000000", "7b7d7b2261223a317d",
	}, "")
	want = strings.Replace(want, "CHECKSUM", "64406ae36f335c3a", 1)
	if hex.EncodeToString(got) != want {
		t.Fatalf("the envelope is\n%x, but the package comment has\n%s", got, want)
	}
}

func drawRuns(t *rapid.T) (runs []Run, records [][]byte) {
	for range rapid.IntRange(0, 5).Draw(t, "runs") {
		r := Run{
			Producer: rapid.StringN(0, 20, 60).Draw(t, "producer"),
			First:    rapid.Uint64Range(0, 1<<63).Draw(t, "first"),
			Count:    rapid.Uint32Range(1, 20).Draw(t, "count"),
			Session:  rapid.StringN(0, 20, 60).Draw(t, "session"),
		}
		if rapid.Bool().Draw(t, "lines") {
			copy(r.Chunk[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "chunk"))
			r.Lines = rapid.SliceOfN(rapid.Uint64(), int(r.Count), int(r.Count)).Draw(t, "digests")
		}
		if r.File = rapid.StringN(0, 20, 60).Draw(t, "file"); r.File != "" {
			r.Numbers = rapid.SliceOfN(rapid.Uint32(), int(r.Count), int(r.Count)).Draw(t, "numbers")
			slices.Sort(r.Numbers)
		}
		for range r.Count {
			records = append(records, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "record"))
		}
		runs = append(runs, r)
	}
	return runs, records
}

func TestEnvelopeComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs, records := drawRuns(t)
		stream := rapid.StringMatching(`[a-z][a-z0-9_]{0,20}`).Draw(t, "stream")
		b := AppendEnvelope([]byte("before"), stream, runs, records)[len("before"):]
		e, err := ParseEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		if e.Stream != stream || e.Count() != len(records) || len(e.Runs) != len(runs) || len(runs) > 0 && !reflect.DeepEqual(e.Runs, runs) {
			t.Fatalf("got %q, %d records, %+v", e.Stream, e.Count(), e.Runs)
		}
		for i, r := range records {
			if !bytes.Equal(e.Record(i), r) {
				t.Fatalf("record %d is %q, was %q", i, e.Record(i), r)
			}
		}
	})
}

// A flipped bit or a missing end is always detected.
func TestEnvelopeDamageIsSeen(t *testing.T) {
	good := AppendEnvelope(nil, "orders", []Run{{Producer: "p", First: 1, Count: 3, Session: "s", Lines: []uint64{1, 2, 3}, File: "f.csv", Numbers: []uint32{2, 3, 300}}}, retailRecords(3))
	for bit := range 8 * len(good) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseEnvelope(b); err == nil {
			t.Fatalf("no error although bit %d is flipped", bit)
		}
	}
	for n := range len(good) {
		if _, err := ParseEnvelope(good[:n]); err == nil {
			t.Fatalf("no error although only %d bytes are left", n)
		}
	}
	if _, err := ParseEnvelope(append(bytes.Clone(good), 0)); err == nil {
		t.Fatal("no error although a byte follows")
	}
}

// seal corrects the checksum of a forged envelope.
func seal(b []byte) []byte {
	if len(b) >= envelopeHeader {
		binary.LittleEndian.PutUint64(b[4:], xxh3.Hash(b[sumFrom:]))
	}
	return b
}

func TestEnvelopeSaysWhatIsWrong(t *testing.T) {
	make1 := func() []byte {
		return AppendEnvelope(nil, "s", []Run{{Producer: "p", First: 7, Count: 2}}, [][]byte{[]byte(`{}`), []byte(`{"a":1}`)})
	}
	for _, c := range []struct {
		why  string
		edit func([]byte) []byte
	}{
		{"does not begin with DUE", func([]byte) []byte { return []byte("{}") }},
		{"version 2; this program reads version 1", func(b []byte) []byte { b[3] = 2; return b }},
		{"the header counts 3 records, the runs 2", func(b []byte) []byte { b[12] = 3; return seal(b) }},
		{"2 runs for 1 records", func(b []byte) []byte { b[12], b[16] = 1, 2; return seal(b) }},
		{"65537 records; the limit is 65536", func(b []byte) []byte { b[12], b[14] = 1, 1; return seal(b) }},
		{"a run of 9 records in an envelope of 2", func(b []byte) []byte { b[25] = 9; return seal(b) }},
		{"file byte is 7", func(b []byte) []byte { b[27] = 7; return seal(b) }},
		{"file has no name", func(b []byte) []byte { b[27], b[28] = 2, 0; return seal(b) }},
		{"record 1 of a run has a line number above 4294967295", func([]byte) []byte {
			b := AppendEnvelope(nil, "s", []Run{{Count: 2, File: "f", Numbers: []uint32{math.MaxUint32, math.MaxUint32}}}, [][]byte{nil, nil})
			i := bytes.Index(b, []byte{0x0f, 0}) // the end of the first number, and the second
			b[i+1] = 1
			return seal(b)
		}},
		{"it ends before", func(b []byte) []byte { b[20] = 200; return seal(b) }},
		{"a name is not UTF-8", func(b []byte) []byte { b[21] = 0xff; return seal(b) }},
		{"record 1 ends before it starts", func(b []byte) []byte { b[32] = 1; return seal(b) }},
		{"records end at byte 10 of 9", func(b []byte) []byte { b[32] = 10; return seal(b) }},
		{"the limit is 4194304", func(b []byte) []byte { return append(b, make([]byte, MaxEnvelopeBytes)...) }},
	} {
		_, err := ParseEnvelope(c.edit(make1()))
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("error is %v, should contain %q", err, c.why)
		}
	}
}

func TestAppendEnvelopeRefusesWrongCounts(t *testing.T) {
	for _, runs := range [][]Run{{{Count: 1}}, {{Count: 2, Lines: []uint64{1}}}, {{Count: 0}, {Count: 2}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("no panic for the runs %v of two records", runs)
				}
			}()
			AppendEnvelope(nil, "s", runs, [][]byte{nil, nil})
		}()
	}
}

// Parsing any bytes and reading every record is safe.
func FuzzParseEnvelope(f *testing.F) {
	f.Add(AppendEnvelope(nil, "orders", []Run{{Producer: "p", First: 1, Count: 3, Session: "s", Lines: []uint64{1, 2, 3}}}, retailRecords(3)))
	f.Add(AppendEnvelope(nil, "", nil, nil))
	f.Add([]byte("DUE\x01"))
	f.Fuzz(checkAnyEnvelope)
}

func checkAnyEnvelope(t *testing.T, b []byte) {
	e, err := ParseEnvelope(seal(b))
	if err != nil {
		return
	}
	records := make([][]byte, e.Count())
	total := 0
	for i := range records {
		records[i] = e.Record(i)
		total += len(records[i])
	}
	if total > len(b) {
		t.Fatalf("%d bytes of records in %d bytes", total, len(b))
	}
	again, err := ParseEnvelope(AppendEnvelope(nil, e.Stream, e.Runs, records))
	if err != nil || again.Count() != e.Count() || again.Stream != e.Stream || fmt.Sprint(again.Runs) != fmt.Sprint(e.Runs) {
		t.Fatalf("encoding the parsed envelope gives another one: %v", err)
	}
}

// Forged lengths have the property of the fuzz target in every test run.
func TestForgedEnvelopesAreSafe(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	good := AppendEnvelope(nil, "orders", []Run{{Producer: "p", First: 1, Count: 3, Session: "s", Lines: []uint64{1, 2, 3}, File: "f.csv", Numbers: []uint32{2, 3, 300}}}, retailRecords(3))
	for range 20_000 {
		b := bytes.Clone(good)
		for range 1 + r.IntN(3) {
			b[12+r.IntN(60)] = byte(r.Uint32())
		}
		checkAnyEnvelope(t, b[:r.IntN(len(b)+1)])
	}
}
