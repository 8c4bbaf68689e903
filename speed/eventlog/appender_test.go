package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"duet/internal/base/failpoint"
	"duet/schemas/event"
)

func openAppender(t testing.TB, l *Log, lasts map[string]uint64) *Appender {
	t.Helper()
	d := NewAppender(l, lasts)
	t.Cleanup(d.Close)
	return d
}

// numbered is a request of records "producer-number".
func numbered(producer string, first uint64, count int) Request {
	r := Request{Stream: "orders", Producer: producer, Number: first}
	for i := range count {
		r.Records = append(r.Records, childRecord(producer, first+uint64(i)))
	}
	return r
}

// wholeNumbers checks that each producer's numbers are in the log in order,
// without a hole, each with its record, and returns the last ones.
func wholeNumbers(t testing.TB, l *Log) map[string]uint64 {
	t.Helper()
	last := map[string]uint64{}
	must(t, eachRecord(l, func(producer string, number uint64, record []byte) {
		if producer == "" {
			return
		}
		if number != last[producer]+1 || string(record) != string(childRecord(producer, number)) {
			t.Fatalf("%s: number %d (%s) follows %d", producer, number, record, last[producer])
		}
		last[producer] = number
	}))
	return last
}

func TestAppendReturnsWhereTheRecordsAre(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	d := openAppender(t, l, map[string]uint64{"known": 10})
	ctx := context.Background()
	at := func(r Request) Appended {
		t.Helper()
		a, err := d.Append(ctx, r)
		must(t, err)
		return a
	}
	a := at(numbered("p", 1, 5))
	if a.At != l.Last() || a.First != 0 || a.Count != 5 || a.Duplicate != 0 {
		t.Fatalf("%+v", a)
	}
	if b := at(numbered("p", 1, 5)); b.Duplicate != 5 || b.Count != 0 || b.At < a.At {
		t.Fatalf("a repeated request: %+v", b)
	}
	if b := at(numbered("p", 4, 5)); b.Duplicate != 2 || b.Count != 3 {
		t.Fatalf("overlapping: %+v", b)
	}
	if b := at(numbered("known", 9, 4)); b.Duplicate != 2 || b.Count != 2 {
		t.Fatalf("overlapping a recovered number: %+v", b)
	}
	var order *OrderError
	if _, err := d.Append(ctx, numbered("p", 10, 1)); !errors.As(err, &order) || order.Expected != 9 {
		t.Fatalf("a hole: %v", err)
	}
	if _, err := d.Append(ctx, numbered("new", 2, 1)); !errors.As(err, &order) || order.Expected != 1 {
		t.Fatalf("a new producer that begins at 2: %v", err)
	}
	if d.Last("p") != 8 || d.Last("known") != 12 || d.Last("nobody") != 0 {
		t.Fatal(d.Last("p"), d.Last("known"))
	}
	again := numbered("p", 8, 2) // the first is a duplicate
	again.File, again.Numbers = "f.csv", []uint32{7, 11}
	grown, err := readAll(t, l, at(again).At-1)
	must(t, err)
	named, err := event.ParseEnvelope(grown[0].Data)
	must(t, err)
	if run := named.Runs[0]; run.File != "f.csv" || !slices.Equal(run.Numbers, []uint32{11}) {
		t.Fatalf("the run of record 9 has the file %q and the lines %v, want f.csv and [11]", run.File, run.Numbers)
	}
	file := Request{Stream: "sales", Records: [][]byte{[]byte("x"), []byte("y")}, Session: "s", Chunk: [16]byte{7}, Lines: []uint64{1, 2}}
	b := at(file)
	all, err := readAll(t, l, b.At-1)
	must(t, err)
	env, err := event.ParseEnvelope(all[0].Data)
	must(t, err)
	run := env.Runs[0]
	if all[0].Stream != "sales" || env.Stream != "sales" || run.Session != "s" || run.Chunk != file.Chunk || !slices.Equal(run.Lines, file.Lines) || string(env.Record(1)) != "y" {
		t.Fatalf("%+v", env)
	}
}

func TestAppendRefusesRequestsOverItsLimits(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	d := openAppender(t, l, nil)
	long := string(make([]byte, MaxName+1))
	for field, change := range map[string]func(*Request){
		"stream":        func(r *Request) { r.Stream = "duet.c.cut" },
		"records":       func(r *Request) { r.Records = nil },
		"records ":      func(r *Request) { r.Records = make([][]byte, MaxRecords+1) },
		"records  ":     func(r *Request) { r.Records = slices.Repeat([][]byte{make([]byte, 1<<20)}, 5) },
		"records[1]":    func(r *Request) { r.Records = [][]byte{nil, make([]byte, event.MaxRecordBytes+1)} },
		"producer":      func(r *Request) { r.Producer = long },
		"producer ":     func(r *Request) { r.Producer = "a\nb" },
		"producer  ":    func(r *Request) { r.Producer = "\xff" },
		"session":       func(r *Request) { r.Session = "a\x00" },
		"session ":      func(r *Request) { r.Session = long },
		"number":        func(r *Request) { r.Number = 0 },
		"number ":       func(r *Request) { r.Producer = "" },
		"number  ":      func(r *Request) { r.Number = 1 << 63 },
		"lines":         func(r *Request) { r.Lines = []uint64{1} },
		"file.name":     func(r *Request) { r.Numbers = []uint32{1, 2} },
		"file.name ":    func(r *Request) { r.File = string(make([]byte, MaxFileName+1)) },
		"file.lines":    func(r *Request) { r.File, r.Numbers = "f", []uint32{1} },
		"file.lines[1]": func(r *Request) { r.File, r.Numbers = "f", []uint32{2, 2} },
	} {
		r := numbered("p", 1, 2)
		change(&r)
		_, err := d.Append(context.Background(), r)
		var wrong *RequestError
		if !errors.As(err, &wrong) || !slices.Equal([]byte(wrong.Field), []byte(field)[:len(wrong.Field)]) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if l.Last().Sequence() != 1 {
		t.Error("something was stored")
	}
	largest := Request{Stream: "orders", Records: slices.Repeat([][]byte{make([]byte, MaxRequestBytes/4-4)}, 4)}
	if _, err := d.Append(context.Background(), largest); err != nil {
		t.Error(err)
	}
	most := Request{Stream: "orders", Records: make([][]byte, MaxRecords)}
	if _, err := d.Append(context.Background(), most); err != nil {
		t.Error(err)
	}
	all, err := readAll(t, l, 0)
	must(t, err)
	for _, m := range all[1:] {
		if _, err := event.ParseEnvelope(m.Data); err != nil {
			t.Error(err)
		}
	}
}

// Producers have several requests on their way, over two streams, some sent twice
// and some cancelled, while publishes fail in every way: no hole, no reorder, no
// acknowledged record lost, none stored twice.
func TestEachProducersOrderIsKeptWhateverFails(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l := mustOpen(t, config(t, 256<<20))
	d := openAppender(t, l, nil)
	stop := make(chan struct{})
	var breaker sync.WaitGroup
	breaker.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 99))
		for {
			point := []string{"eventlog.publish.sent", "eventlog.publish.synced"}[rng.IntN(2)]
			disarm := failpoint.On(point, 1+rng.IntN(60), func() error { return errors.New("broken by the test") })
			changed := l.change()
			for !l.chainBroken() {
				select {
				case <-changed:
					changed = l.change()
				case <-stop:
					disarm()
					return
				}
			}
			disarm()
		}
	})
	var clients sync.WaitGroup
	for c := range 6 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(c)))
			name := fmt.Sprint("p", c)
			next := uint64(1) // first number not known to be stored
			for next < 1500 {
				var under []*Pending
				n := next
				for range 1 + rng.IntN(5) {
					count := 1 + rng.IntN(20)
					r := numbered(name, n, count)
					r.Stream = []string{"orders", "sales"}[rng.IntN(2)]
					p, err := d.Begin(context.Background(), r)
					if err != nil {
						break
					}
					under = append(under, p)
					if rng.IntN(5) > 0 {
						n += uint64(count)
					}
				}
				for _, p := range under {
					ctx, cancel := context.WithCancel(context.Background())
					if rng.IntN(8) == 0 {
						cancel()
					}
					a, err := p.Wait(ctx)
					cancel()
					if err == nil {
						if a.At > l.Last() || a.Count+a.Duplicate != len(p.req.Records) {
							t.Errorf("%+v for %d records", a, len(p.req.Records))
						}
						next = max(next, p.req.Number+uint64(len(p.req.Records)))
					}
				}
			}
			if d.Last(name) < next-1 {
				t.Errorf("%s: %d acknowledged, Last returns %d", name, next-1, d.Last(name))
			}
		})
	}
	clients.Wait()
	close(stop)
	breaker.Wait()
	for name, last := range wholeNumbers(t, l) {
		if last < 1499 || d.Last(name) != last {
			t.Errorf("%s ends at %d, Last returns %d", name, last, d.Last(name))
		}
	}
}

func TestClientsShareEnvelopes(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	d := openAppender(t, l, nil)
	var wg sync.WaitGroup
	for c := range 32 {
		wg.Go(func() {
			for n := range uint64(30) {
				if _, err := d.Append(context.Background(), numbered(fmt.Sprint("p", c), n+1, 1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := l.Last().Sequence(); n > 32*30/2 {
		t.Errorf("%d envelopes for %d requests", n-1, 32*30)
	}
	for name, last := range wholeNumbers(t, l) {
		if last != 30 {
			t.Errorf("%s: %d", name, last)
		}
	}
}

// holdWindow reserves all of the log's window, so that nothing is sent.
func holdWindow(t testing.TB, l *Log) (letGo func()) {
	t.Helper()
	for range window {
		must(t, l.reserve(context.Background()))
	}
	return sync.OnceFunc(func() {
		for range window {
			l.unreserve()
		}
	})
}

func TestAFullQueueWaitsAndThenReturnsBusy(t *testing.T) {
	l := mustOpen(t, config(t, 512<<20))
	d := openAppender(t, l, nil)
	letGo := holdWindow(t, l)
	defer letGo()
	big := Request{Stream: "orders", Records: slices.Repeat([][]byte{make([]byte, 1<<20-4)}, 3)}
	var under []*Pending
	for range queueBytes / (3 << 20) {
		p, err := d.Begin(context.Background(), big)
		must(t, err)
		under = append(under, p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	answer := make(chan error)
	go func() {
		_, err := d.Append(ctx, big)
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	cancel()
	if err := <-answer; !errors.Is(err, ErrBusy) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	letGo()
	for _, p := range under {
		if _, err := p.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACancelledRequestAbandonsThoseBehindIt(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	d := openAppender(t, l, nil)
	letGo := holdWindow(t, l)
	defer letGo()
	var under []*Pending
	for i := range uint64(4) {
		p, err := d.Begin(context.Background(), numbered("p", 1+5*i, 5))
		must(t, err)
		under = append(under, p)
	}
	other, err := d.Begin(context.Background(), numbered("q", 1, 1))
	must(t, err)
	again, err := d.Begin(context.Background(), numbered("p", 6, 5)) // a duplicate of the request that is cancelled
	must(t, err)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := under[1].Wait(gone); !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
	for _, p := range under[2:] {
		if _, err := p.Wait(context.Background()); !errors.Is(err, ErrEarlier) {
			t.Fatal(err)
		}
	}
	if _, err := again.Wait(context.Background()); !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
	letGo()
	for _, p := range []*Pending{under[0], other} {
		if _, err := p.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if d.Last("p") != 5 {
		t.Fatal(d.Last("p"))
	}
	if _, err := d.Append(context.Background(), numbered("p", 6, 5)); err != nil {
		t.Fatal(err)
	}
	wholeNumbers(t, l)
}

func TestAppendToAFullLogIsRefusedUntilATrim(t *testing.T) {
	l := mustOpen(t, config(t, MinBytes))
	d := openAppender(t, l, nil)
	n := uint64(1)
	var err error
	for ; err == nil; n += 100 {
		_, err = d.Append(context.Background(), numbered("p", n, 100))
	}
	n -= 100
	if !errors.Is(err, ErrFull) || d.Last("p") != n-1 {
		t.Fatalf("%v at %d, Last returns %d", err, n, d.Last("p"))
	}
	if _, err := d.Append(context.Background(), numbered("p", n-100, 100)); err != nil {
		t.Fatalf("a duplicate needs no room: %v", err)
	}
	must(t, l.Trim(context.Background(), l.Last()))
	if a, err := d.Append(context.Background(), numbered("p", n, 100)); err != nil || a.Count != 100 {
		t.Fatal(a, err)
	}
}

func TestCloseAnswersEveryRequest(t *testing.T) {
	l := mustOpen(t, config(t, 64<<20))
	d := NewAppender(l, nil)
	letGo := holdWindow(t, l)
	defer letGo()
	var under []*Pending
	for i := range uint64(3) {
		p, err := d.Begin(context.Background(), numbered("p", i+1, 1))
		must(t, err)
		under = append(under, p)
	}
	d.Close()
	d.Close()
	for _, p := range under {
		if _, err := p.Wait(context.Background()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	if _, err := d.Append(context.Background(), numbered("p", 1, 1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// A request that is queued behind one that the store refuses must not be sent
// before the refusal arrives.
func TestNothingOvertakesARefusal(t *testing.T) {
	l := mustOpen(t, config(t, MinBytes))
	d := openAppender(t, l, nil)
	l.mu.Lock()
	l.used = -1 << 40 // so that the store refuses, not sendReserved
	l.mu.Unlock()
	must(t, l.reserve(context.Background())) // one at a time
	defer l.unreserve()
	for i := range 300 {
		name := fmt.Sprint("p", i)
		big := Request{Stream: "orders", Producer: name, Number: 1, Records: [][]byte{make([]byte, 2*MinBytes)}}
		first, err := d.Begin(context.Background(), big)
		must(t, err)
		small := numbered(name, 2, 1)
		small.Stream = "sales"
		second, err := d.Begin(context.Background(), small)
		if _, err := first.Wait(context.Background()); !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		if err == nil {
			_, err = second.Wait(context.Background())
		}
		if err == nil {
			t.Fatalf("try %d: number 2 was stored without number 1", i)
		}
	}
}
