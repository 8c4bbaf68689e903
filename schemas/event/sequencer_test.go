package event

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"duet/schemas"
	"duet/schemas/project"
)

// shopStreams returns two small streams. One has an id with a window of 20.
func shopStreams() map[string]*Schema {
	orders := &project.Stream{Name: "orders", ID: []string{"a", "b"}, IDWindow: 20, EventTime: "at", FutureBound: time.Hour, Columns: []project.Column{
		{Name: "a", Type: project.Type{Kind: project.Integer}},
		{Name: "b", Type: project.Type{Kind: project.Varchar}},
		{Name: "at", Type: project.Type{Kind: project.Timestamp}},
	}}
	visits := &project.Stream{Name: "visits", Columns: []project.Column{{Name: "a", Type: project.Type{Kind: project.Integer}, NotNull: true}}}
	return map[string]*Schema{"orders": NewSchema(orders), "visits": NewSchema(visits)}
}

// genMessages returns envelopes with repeated producers, files and ids.
func genMessages(r *rand.Rand, n int) []Message {
	messages := make([]Message, 0, n)
	for i := range n {
		stream := []string{"orders", "orders", "visits", "nowhere"}[r.IntN(4)]
		var runs []Run
		var records [][]byte
		for range 1 + r.IntN(3) {
			run := Run{Count: 1 + r.Uint32N(6), Session: []string{"", "s1", "s2"}[r.IntN(3)]}
			switch r.IntN(3) {
			case 0:
				run.Producer, run.First = fmt.Sprint("p", r.IntN(3)), uint64(r.IntN(40))
			case 1:
				run.Chunk[0] = byte(r.IntN(4))
				for range run.Count {
					run.Lines = append(run.Lines, uint64(r.IntN(60)))
				}
			}
			for range run.Count {
				records = append(records, genEvent(r))
			}
			runs = append(runs, run)
		}
		data := AppendEnvelope(nil, stream, runs, records)
		if r.IntN(15) == 0 {
			data[r.IntN(len(data))] ^= 4
		}
		messages = append(messages, Message{Stream: stream, At: schemas.NewPosition(1, uint64(i+1)), Time: logTime.Add(time.Duration(i) * time.Minute), Data: data})
	}
	return messages
}

func genEvent(r *rand.Rand) []byte {
	switch r.IntN(8) {
	case 0:
		return []byte(`{"a":1.5}`)
	case 1:
		return []byte(`{"a":null}`)
	case 2:
		return fmt.Appendf(nil, `{"a":1,"at":%q}`, logTime.Add(time.Duration(r.IntN(200))*time.Minute).Format(time.DateTime))
	}
	return fmt.Appendf(nil, `{"a":%d,"b":"%d","c":[]}`, r.IntN(6), r.IntN(8))
}

// dump prints the contents of a batch, for comparison.
func dump(b *Batch) string {
	var out strings.Builder
	fmt.Fprintln(&out, b.Through, b.Events, b.Accounts(), b.Sessions(), b.Producers())
	for _, r := range b.Records() {
		fmt.Fprintln(&out, r.Stream, r.NewestEventTime)
		dumpRecord(&out, r.Record)
	}
	dumpRecord(&out, b.RejectRecord())
	dumpRecord(&out, b.LinesRecord())
	dumpRecord(&out, b.EnvelopesRecord())
	return out.String()
}

func dumpRecord(out *strings.Builder, rec arrow.RecordBatch) {
	if rec == nil {
		return
	}
	for row := range int(rec.NumRows()) {
		for _, c := range rec.Columns() {
			out.WriteString(c.ValueStr(row) + "\t")
		}
		out.WriteByte('\n')
	}
}

// model is a simple sequencer that uses only maps and lists.
type model struct {
	producers map[string]uint64
	lines     map[string]map[uint64]bool
	ids       map[string][]string
}

// apply returns "accepted", "duplicate" or "rejected" for each record.
func (o *model) apply(m Message, all map[string]*Schema) (verdicts []string) {
	e, err := ParseEnvelope(m.Data)
	if err != nil || e.Stream != m.Stream {
		return []string{"rejected"}
	}
	s, i := all[m.Stream], 0
	for _, run := range e.Runs {
		for k := range int(run.Count) {
			verdicts = append(verdicts, o.record(m, s, run, k, e.Record(i)))
			i++
		}
	}
	return verdicts
}

func (o *model) record(m Message, s *Schema, run Run, k int, record []byte) string {
	if run.Producer != "" {
		number := run.First + uint64(k)
		if number == 0 {
			return "rejected"
		}
		if number <= o.producers[run.Producer] {
			return "duplicate"
		}
		o.producers[run.Producer] = number
	}
	if s == nil {
		return "rejected"
	}
	key := fmt.Sprint(m.Stream, run.Chunk)
	if run.Lines != nil && o.lines[key][run.Lines[k]] {
		return "duplicate"
	}
	values, reject := NewDecoder(s).Decode(record, m.Time)
	if run.Lines != nil && (reject == nil || !reject.retryable) {
		if o.lines[key] == nil {
			o.lines[key] = map[uint64]bool{}
		}
		o.lines[key][run.Lines[k]] = true
	}
	if reject != nil {
		return "rejected"
	}
	if s.stream.ID != nil {
		id := fmt.Sprintf("%q", values[:2])
		if values[0] != "NULL" || values[1] != "NULL" {
			if slices.Contains(o.ids[m.Stream], id) {
				return "duplicate"
			}
			o.ids[m.Stream] = append(o.ids[m.Stream], id)
			if len(o.ids[m.Stream]) > s.stream.IDWindow {
				o.ids[m.Stream] = o.ids[m.Stream][1:]
			}
		}
	}
	return "accepted"
}

// positions adds the (position, record) of each row to into.
func positions(rec arrow.RecordBatch, verdict string, into map[string]string) {
	if rec == nil {
		return
	}
	n := int(rec.NumCols())
	for row := range int(rec.NumRows()) {
		at, record := rec.Column(n-2).(*array.Int64).Value(row), rec.Column(n-1).(*array.Int32).Value(row)
		into[fmt.Sprint(at, " ", record)] = verdict
	}
}

// H1: every event has one verdict, which is the model's, and the accounts balance.
func TestSequencerAgreesWithTheModel(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	b := NewBatch(mem)
	defer b.Release()
	total := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		streams := shopStreams()
		q := NewSequencer(streams, NewState())
		o := &model{producers: map[string]uint64{}, lines: map[string]map[uint64]bool{}, ids: map[string][]string{}}
		for _, m := range genMessages(r, 60) {
			b.Reset()
			q.Apply(m, b)
			got := map[string]string{}
			for _, rec := range b.Records() {
				positions(rec.Record, "accepted", got)
			}
			positions(b.RejectRecord(), "rejected", got)
			var want schemas.Account
			for i, v := range o.apply(m, streams) {
				total[v]++
				want.Received++
				switch v {
				case "accepted":
					want.Accepted++
				case "duplicate":
					want.Duplicate++
				default:
					want.Rejected++
				}
				if v == "duplicate" {
					v = ""
				}
				if key := fmt.Sprint(int64(m.At), " ", i); got[key] != v {
					t.Fatalf("%v record %d is %q; the model says %q", m.At, i, got[key], v)
				}
			}
			if a := b.Accounts()[0]; a.Account != want || !a.Balanced() || int64(b.Events) != a.Received || a.Stream != m.Stream {
				t.Fatalf("%v: the account is %+v, want %+v", m.At, a, want)
			}
			var counted schemas.Account
			if rec := b.EnvelopesRecord(); rec != nil {
				column := func(i, row int) int64 { return rec.Column(i).(*array.Int64).Value(row) }
				for row := range int(rec.NumRows()) {
					counted.Add(schemas.Account{Received: column(1, row), Duplicate: column(2, row), Rejected: column(3, row)})
				}
			}
			if counted.Accepted = want.Accepted; counted != want {
				t.Fatalf("%v: the runs count %+v, want %+v", m.At, counted, want)
			}
			for _, s := range b.Sessions() {
				if !s.Balanced() || s.Received == 0 {
					t.Fatalf("%v: session %+v", m.At, s)
				}
			}
		}
		if got := q.State().Producers(); !maps.Equal(got, o.producers) {
			t.Fatalf("the producers are %v, want %v", got, o.producers)
		}
	})
	if total["accepted"] < 1000 || total["duplicate"] < 1000 || total["rejected"] < 1000 {
		t.Fatalf("the generator produces too few of some verdict: %v", total)
	}
}

// H7: the verdicts do not depend on how messages are divided into batches, and are
// the same with a restored and a cloned state.
func TestSequencerIsPure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		streams := shopStreams()
		messages := genMessages(r, 80)
		cut := r.IntN(len(messages))

		one := NewSequencer(streams, NewState())
		b := NewBatch(memory.DefaultAllocator)
		defer b.Release()
		var singles []string
		restored := NewState()
		for i, m := range messages {
			if i == cut {
				clone := one.State().Clone()
				compareRest(t, streams, messages[cut:], clone, one.State().Clone(), "a clone")
				compareRest(t, streams, messages[cut:], restored, clone0(streams, messages[:cut]), "a restored state")
			}
			b.Reset()
			one.Apply(m, b)
			singles = append(singles, dump(b))
			if i < cut {
				restore(t, restored, b)
			}
		}
		// Batches of several messages have the rows of the single ones, in order.
		other := NewSequencer(streams, NewState())
		var rows, wants []string
		for i := 0; i < len(messages); {
			b.Reset()
			for n := 1 + r.IntN(10); n > 0 && i < len(messages); n-- {
				other.Apply(messages[i], b)
				i++
			}
			for _, line := range strings.SplitAfter(dump(b), "\n") {
				if strings.Contains(line, "\t") {
					rows = append(rows, line)
				}
			}
		}
		for _, s := range singles {
			for _, line := range strings.SplitAfter(s, "\n") {
				if strings.Contains(line, "\t") {
					wants = append(wants, line)
				}
			}
		}
		slices.Sort(rows)
		slices.Sort(wants)
		if !slices.Equal(rows, wants) {
			t.Fatal("the rows depend on how messages are divided into batches")
		}
	})
}

// clone0 returns the state after messages, computed by Apply alone.
func clone0(streams map[string]*Schema, messages []Message) *State {
	q := NewSequencer(streams, NewState())
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	for _, m := range messages {
		q.Apply(m, b)
	}
	return q.State()
}

// restore adds to a state what a batch leaves in the archive.
func restore(t *rapid.T, st *State, b *Batch) {
	last := map[string]uint64{}
	for _, p := range b.Producers() {
		last[p.Name] = p.Last
	}
	st.RestoreProducers(last)
	if rec := b.LinesRecord(); rec != nil {
		if err := st.RestoreLines(rec); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range b.Records() {
		if err := st.RestoreIDs(r.Schema, r.Record); err != nil {
			t.Fatal(err)
		}
	}
}

// compareRest applies the rest of the messages to both states and compares the batches.
func compareRest(t *rapid.T, streams map[string]*Schema, rest []Message, x, y *State, what string) {
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	qx, qy := NewSequencer(streams, x), NewSequencer(streams, y)
	for _, m := range rest {
		b.Reset()
		qx.Apply(m, b)
		got := dump(b)
		b.Reset()
		qy.Apply(m, b)
		if want := dump(b); got != want {
			t.Fatalf("%v: the batch of %s is\n%s\nwant\n%s", m.At, what, got, want)
		}
	}
}

// one applies one envelope to q and returns the account.
func one(q *Sequencer, b *Batch, stream string, at uint64, runs []Run, records ...string) schemas.Account {
	var bs [][]byte
	for _, r := range records {
		bs = append(bs, []byte(r))
	}
	b.Reset()
	q.Apply(Message{Stream: stream, At: schemas.NewPosition(1, at), Time: logTime, Data: AppendEnvelope(nil, stream, runs, bs)}, b)
	return b.Accounts()[0].Account
}

func TestUnreadableEnvelopeIsOneReject(t *testing.T) {
	q := NewSequencer(shopStreams(), NewState())
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	other := AppendEnvelope(nil, "visits", []Run{{Count: 1}}, [][]byte{[]byte(`{"a":1}`)})
	for _, data := range [][]byte{nil, []byte("{}"), other} {
		b.Reset()
		q.Apply(Message{Stream: "orders", At: 1, Time: logTime, Data: data}, b)
		rec := b.RejectRecord()
		if a := b.Accounts()[0]; a.Received != 1 || a.Rejected != 1 || rec.NumRows() != 1 || !bytes.Equal(rec.Column(3).(*array.Binary).Value(0), data) {
			t.Fatalf("%q: %+v", data, a)
		}
	}
	if why := b.RejectRecord().Column(1).ValueStr(0); why != "envelope: it names the stream visits, but the message's subject is orders" {
		t.Fatal(why)
	}
	one(q, b, "nowhere", 2, []Run{{Count: 1}}, `{}`)
	if why := b.RejectRecord().Column(1).ValueStr(0); why != "no stream nowhere is defined" {
		t.Fatal(why)
	}
}

// A number at or below the producer's last is always a duplicate, whatever the
// verdict of that record was.
func TestProducerNumbersAdvanceWithRejects(t *testing.T) {
	q := NewSequencer(shopStreams(), NewState())
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	run := []Run{{Producer: "p", First: 1, Count: 2}}
	if a := one(q, b, "visits", 1, run, `{"a":1}`, `bad`); a.Accepted != 1 || a.Rejected != 1 {
		t.Fatalf("%+v", a)
	}
	if p := b.Producers(); len(p) != 1 || p[0] != (Producer{"p", 2}) {
		t.Fatalf("%+v", p)
	}
	if a := one(q, b, "visits", 2, run, `{"a":1}`, `bad`); a.Duplicate != 2 || len(b.Producers()) != 0 {
		t.Fatalf("%+v", a)
	}
	if a := one(q, b, "visits", 3, []Run{{Producer: "p", First: 0, Count: 1}}, `{"a":1}`); a.Rejected != 1 {
		t.Fatalf("%+v", a)
	}
}

func TestIDsAreForgottenAfterTheWindow(t *testing.T) {
	q := NewSequencer(shopStreams(), NewState())
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	send := func(a int) schemas.Account {
		return one(q, b, "orders", 1, []Run{{Count: 1}}, fmt.Sprintf(`{"a":%d,"b":"x"}`, a))
	}
	for i := range 20 {
		send(i)
	}
	if a := send(0); a.Duplicate != 1 {
		t.Fatalf("the 20th before: %+v", a)
	}
	send(20)
	if a := send(0); a.Accepted != 1 {
		t.Fatalf("the 21st before: %+v", a)
	}
	// Rejected and duplicate events take no place in the window. NULL beside another
	// value is part of an id; NULL alone is no id.
	for _, c := range []struct {
		record string
		want   schemas.Account
	}{
		{`{"a":1.5,"b":"x"}`, schemas.Account{Received: 1, Rejected: 1}},
		{`{"a":2,"b":"x"}`, schemas.Account{Received: 1, Duplicate: 1}},
		{`{"a":7}`, schemas.Account{Received: 1, Accepted: 1}},
		{`{"a":7,"b":""}`, schemas.Account{Received: 1, Accepted: 1}},
		{`{"a":7}`, schemas.Account{Received: 1, Duplicate: 1}},
		{`{}`, schemas.Account{Received: 1, Accepted: 1}},
		{`{}`, schemas.Account{Received: 1, Accepted: 1}},
	} {
		if a := one(q, b, "orders", 1, []Run{{Count: 1}}, c.record); a != c.want {
			t.Errorf("%s: %+v", c.record, a)
		}
	}
}

// The window agrees with a list while it grows, wraps around and is resized.
func TestIDWindowRemembersTheLastN(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, n := range []int{1, 7, 100, 3000} {
		w := newIDWindow(n)
		var list []uint64
		id := func(v uint64) (h struct{ Hi, Lo uint64 }) { h.Lo = v & 15; h.Hi = v; return h }
		for range 20_000 {
			v := uint64(r.IntN(3 * n))
			if got, want := w.has(id(v)), slices.Contains(list, v); got != want {
				t.Fatalf("window %d has(%d) is %v", n, v, got)
			} else if !want {
				w.add(id(v))
				list = append(list, v)
				list = list[max(0, len(list)-n):]
			}
			if n == 3000 && len(list) > 300 { // the linear list is slow
				break
			}
		}
		for _, size := range []int{n / 2, n + 5} {
			if size == 0 {
				continue
			}
			x := w.resized(size)
			for i, v := range list {
				if got, want := x.has(id(v)), i >= len(list)-size; got != want {
					t.Fatalf("resized to %d: has(%d) is %v", size, v, got)
				}
			}
		}
	}
}

// Malformed records, one in a hundred, do not affect others, and each is kept whole
// with its reason.
func TestPoisonIsSetAside(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	r := rand.New(rand.NewPCG(17, 17))
	stream := retailStream()
	q := NewSequencer(map[string]*Schema{"orders": NewSchema(stream)}, NewState())
	b := NewBatch(mem)
	defer b.Release()
	good := retailRecords(990)
	var account schemas.Account
	messages := int64(1000)
	if testing.Short() {
		messages = 50 // under the race detector
	}
	for at := range messages {
		records := slices.Clone(good)
		var poison [][]byte
		for range 10 {
			p := genPoison(r, good)
			poison = append(poison, p)
			records = slices.Insert(records, r.IntN(len(records)), p)
		}
		b.Reset()
		q.Apply(Message{Stream: "orders", At: schemas.Position(at + 1), Time: logTime, Data: AppendEnvelope(nil, "orders", []Run{{Count: 1000}}, records)}, b)
		a := b.Accounts()[0]
		account.Add(a.Account)
		if a.Rejected != 10 || a.Accepted != 990 {
			t.Fatalf("message %d: %+v", at, a)
		}
		invoices := b.Records()[0].Record.Column(0).(*array.String)
		for i := range good {
			if want := fmt.Sprint(536365 + i/10); invoices.Value(i) != want {
				t.Fatalf("message %d: row %d is invoice %s, not %s", at, i, invoices.Value(i), want)
			}
		}
		raws := b.RejectRecord().Column(3).(*array.Binary)
		for i := range poison {
			if !slices.ContainsFunc(poison, func(p []byte) bool { return bytes.Equal(p, raws.Value(i)) }) || b.RejectRecord().Column(1).ValueStr(i) == "" {
				t.Fatalf("message %d: reject %d is %.80q", at, i, raws.Value(i))
			}
		}
	}
	if account.Received != 1000*messages || account.Rejected != 10*messages || !account.Balanced() {
		t.Fatalf("%+v", account)
	}
}

// genPoison returns a record that the decoder must reject.
func genPoison(r *rand.Rand, good [][]byte) []byte {
	g := good[r.IntN(len(good))]
	switch r.IntN(9) {
	case 0:
		return bytes.Replace(g, []byte("United"), []byte{0xff, byte(r.Uint32())}, 1)
	case 1:
		return append([]byte(`{"deep":`), strings.Repeat(`[`, 10_000)...)
	case 2:
		return bytes.Replace(g, []byte(`"quantity":`), append([]byte(`"quantity":`), strings.Repeat("9", 2000)...), 1)
	case 3:
		return bytes.Replace(g, []byte(`"sold_at":"2011`), []byte(`"sold_at":"20x1`), 1)
	case 4:
		return g[:r.IntN(len(g))]
	case 5:
		return append(bytes.Clone(g), '}')
	case 6:
		return []byte{0x0a, 0x03, 'a', 'b'} // a truncated proto
	case 7:
		return bytes.Replace(g, []byte(`"line":`), []byte(`"line":0.5,"line":`), 1)
	}
	return []byte(`null`)
}

func TestBatchSaysWhenItIsMisused(t *testing.T) {
	q := NewSequencer(shopStreams(), NewState())
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	one(q, b, "visits", 1, []Run{{Count: 1}}, `{"a":1}`)
	b.Records()
	defer func() {
		if recover() == nil {
			t.Fatal("Apply to a finished batch did not panic")
		}
	}()
	q.Apply(Message{Stream: "visits", At: 2, Time: logTime}, b)
}

// After an edit of a definition, a new sequencer continues from the same state, and a
// batch that was reset takes the new definition.
func TestDefinitionsChangeBetweenBatches(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	b := NewBatch(mem)
	defer b.Release()
	q := NewSequencer(shopStreams(), NewState())
	one(q, b, "visits", 1, []Run{{Producer: "p", First: 1, Count: 1}}, `{"a":1}`)
	edited := shopStreams()
	edited["visits"] = NewSchema(&project.Stream{Name: "visits", Columns: []project.Column{{Name: "z", Type: project.Type{Kind: project.Varchar}}}})
	q = NewSequencer(edited, q.State())
	if a := one(q, b, "visits", 2, []Run{{Producer: "p", First: 1, Count: 2}}, `{"z":"x"}`, `{"z":"y"}`); a.Duplicate != 1 || a.Accepted != 1 {
		t.Fatalf("%+v", a)
	}
	if rec := b.Records()[0]; rec.Record.ColumnName(0) != "z" || rec.Record.Column(0).ValueStr(0) != "y" {
		t.Fatalf("%v", rec.Record)
	}
}

// The digest of a message changes with a verdict, a decoded value and their order, and is
// the same when the message is decoded again.
func TestMessageDigestsCoverVerdictsAndValues(t *testing.T) {
	b := NewBatch(memory.DefaultAllocator)
	defer b.Release()
	digest := func(stream string, zone string, records ...string) uint64 {
		t.Helper()
		schemas := shopStreams()
		if zone != "" {
			s := everyType()
			s.Name, s.Zone = "every", mustZone(zone)
			schemas["every"] = NewSchema(s)
		}
		b.Reset()
		q := NewSequencer(schemas, NewState())
		one(q, b, stream, 1, []Run{{Count: uint32(len(records))}}, records...)
		m := b.Messages()
		if len(m) != 1 || m[0].Pos.Sequence() != 1 || m[0].Received != int64(len(records)) || !m[0].Balanced() || m[0].Stream != stream {
			t.Fatalf("messages are %+v", m)
		}
		return m[0].Digest
	}
	seen := map[uint64]string{}
	for _, c := range []struct{ name, stream, zone, records string }{
		{"a value", "visits", "", `{"a":1}`}, {"another value", "visits", "", `{"a":2}`}, {"a reject", "visits", "", `{"a":"x"}`},
		{"an undeclared member", "visits", "", `{"a":1,"x":2}`}, {"another text", "orders", "", `{"a":1,"b":"x"}`}, {"a duplicate", "orders", "", `{"a":1,"b":"x"}|{"a":1,"b":"x"}`},
		{"NULL", "orders", "", `{"a":1}`}, {"a local time", "every", "Europe/London", `{"id":1,"ts":"2010-06-01T00:00:00Z"}`}, {"another zone", "every", "Europe/Paris", `{"id":1,"ts":"2010-06-01T00:00:00Z"}`},
		{"two records", "visits", "", `{"a":1}|{"a":2}`}, {"another order", "visits", "", `{"a":2}|{"a":1}`},
	} {
		records := strings.Split(c.records, "|")
		d := digest(c.stream, c.zone, records...)
		if other, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", c.name, other)
		}
		if again := digest(c.stream, c.zone, records...); again != d {
			t.Errorf("%s has the digests %x and %x", c.name, d, again)
		}
		seen[d] = c.name
	}
}
