// Package shop simulates a retailer for demonstrations: stores in eight
// countries and a web shop, a catalogue, daily and weekly rhythm, returns,
// payments and stock moves, and the faults of real feeds (events that are
// resent, late, or malformed).
//
// [Shop] is a pure generator: the same [Config] gives the same bytes. [Driver]
// sends what it generates over gRPC. Start reading at [New].
//
// The package is a producer like any other: it knows the gRPC interface and the
// columns of the packaged retail project, and must not know more.
package shop

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"
)

// Streams lists the streams of the packaged retail project that a shop feeds.
var Streams = []string{"orders", "payments", "stock_moves"}

// An Event is one record as a producer would send it.
type Event struct {
	Stream string    // one of Streams
	At     time.Time // when it is sent, UTC; a late event's own time is earlier
	JSON   []byte    // one object without a newline; owned by the receiver
}

// Config configures a shop. The zero value of a field means its default.
type Config struct {
	Seed            uint64
	Start           time.Time // of business; defaults to 2026-01-01 UTC
	OrdersPerMinute float64   // averaged over a week; defaults to 12
}

// A Shop generates events in the order of [Event.At]. It is not safe for
// concurrent use.
type Shop struct {
	rng       *rand.Rand
	stores    []store
	catalogue []product
	popular   []float64 // cumulative weights of catalogue
	rate      float64   // orders a second at rhythm 1
	clock     time.Time // time of the last order considered
	invoice   int       // number of the last order
	pending   queue     // events that follow from earlier orders, by time
	made      uint64    // events queued so far; breaks ties in pending
}

// New returns a shop that has taken its first delivery.
func New(c Config) *Shop {
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if c.OrdersPerMinute == 0 {
		c.OrdersPerMinute = 12
	}
	s := &Shop{
		rng:   rand.New(rand.NewPCG(c.Seed, 0x5ee_d0f_a_540b)),
		rate:  c.OrdersPerMinute / 60,
		clock: c.Start.UTC(),
	}
	s.stores = stores()
	s.catalogue = catalogue(s.rng)
	s.popular = popularity(s.rng, len(s.catalogue))
	s.deliver(s.clock)
	return s
}

// Next returns the next event. There is always one.
func (s *Shop) Next() Event {
	// A pending event may be returned only once the clock has passed it: an
	// earlier order could still add an event before it.
	for len(s.pending) == 0 || !s.pending[0].event.At.Before(s.clock) {
		s.advance()
	}
	next := heap.Pop(&s.pending).(entry)
	if next.delivery {
		s.deliver(next.event.At)
		return s.Next()
	}
	return next.event
}

// peakRhythm bounds rhythm from above for thinning.
const peakRhythm = 3.2

// advance moves the clock to the next order and places it. Orders arrive as a
// Poisson process whose rate follows the stores' opening hours, by thinning
// (Lewis and Shedler 1979): candidates arrive at the peak rate and are kept with
// probability rate/peak.
func (s *Shop) advance() {
	gap := s.rng.ExpFloat64() / (s.rate * peakRhythm)
	s.clock = s.clock.Add(time.Duration(gap * float64(time.Second))).Truncate(time.Microsecond)
	var sum float64
	weights := make([]float64, len(s.stores))
	for i := range s.stores {
		weights[i] = s.stores[i].share * s.stores[i].rhythm(s.clock)
		sum += weights[i]
	}
	at := s.rng.Float64() * peakRhythm
	if at >= sum {
		return
	}
	for i, w := range weights {
		if at < w {
			s.order(&s.stores[i])
			return
		}
		at -= w
	}
}

// push queues an event.
func (s *Shop) push(stream string, at time.Time, json []byte) {
	s.made++
	heap.Push(&s.pending, entry{event: Event{Stream: stream, At: at, JSON: json}, made: s.made})
}

// between returns a uniform random duration in [low, high).
func (s *Shop) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.rng.Int64N(int64(high-low)))
}

// chance returns true with probability p.
func (s *Shop) chance(p float64) bool { return s.rng.Float64() < p }

// weighted returns a random index, by cumulative weights.
func (s *Shop) weighted(cumulative []float64) int {
	at := s.rng.Float64() * cumulative[len(cumulative)-1]
	low, high := 0, len(cumulative)-1
	for low < high {
		if mid := (low + high) / 2; cumulative[mid] > at {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// popularity returns cumulative weights of n products that fall off with their
// sales rank, so that a few products sell most.
func popularity(rng *rand.Rand, n int) []float64 {
	ranks := rng.Perm(n)
	cumulative := make([]float64, n)
	var sum float64
	for i, rank := range ranks {
		sum += 1 / math.Pow(float64(rank+3), 0.8)
		cumulative[i] = sum
	}
	return cumulative
}

// An entry is an event to be sent later, or the daily delivery.
type entry struct {
	event    Event
	made     uint64
	delivery bool
}

// queue is a heap of entries, by time, then by the order in which they were made.
type queue []entry

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if !q[i].event.At.Equal(q[j].event.At) {
		return q[i].event.At.Before(q[j].event.At)
	}
	return q[i].made < q[j].made
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(entry)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = entry{}
	*q = old[:len(old)-1]
	return last
}
