package torture

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
)

// event is one generated sale. It is a pure function of (seed, producer,
// number), so the test only remembers each producer's last number.
type event struct {
	id     int64 // unique over all producers
	bad    bool  // must be rejected
	shop   string
	sku    string // "" is NULL
	qty    int64
	price  int64 // in 1/10,000
	weight float64
	at     time.Time
}

// wrap is the number of events of a producer with event times of their own seconds;
// it is no multiple of 997, so that microseconds differ after it.
const wrap = 700_000

var start = time.Date(2026, 3, 27, 0, 0, 0, 0, time.UTC) // spans a change to summer time

func newEvent(seed uint64, producer int, number uint64) event {
	r := rand.New(rand.NewPCG(seed^uint64(producer)<<32, number))
	e := event{
		id:     int64(producer)<<32 | int64(number),
		bad:    r.IntN(100) == 0,
		shop:   fmt.Sprintf("shop-%02d", r.IntN(12)),
		qty:    int64(r.IntN(41) - 5),
		price:  int64(r.IntN(2_000_000)),
		weight: float64(r.IntN(1000)) / 8,
	}
	if r.IntN(10) > 0 {
		e.sku = fmt.Sprintf("sku-%d", r.IntN(20))
	}
	// Unique microseconds avoid ties, which the log's order decides: the test
	// does not know that order. Some events are ninety days late.
	// The clock wraps before it reaches the future, which is rejected.
	e.at = start.Add(time.Duration(number%wrap)*20*time.Second + time.Duration(e.id%997)*time.Microsecond + time.Duration(producer)*time.Second)
	if r.IntN(50) == 0 {
		e.at = e.at.Add(-90 * 24 * time.Hour)
	}
	return e
}

func (e event) json(b *bytes.Buffer) {
	sku := "null"
	if e.sku != "" {
		sku = `"` + e.sku + `"`
	}
	id := fmt.Sprint(e.id)
	if e.bad {
		id = `"no number"`
	}
	fmt.Fprintf(b, `{"id":%s,"shop":%q,"sku":%s,"qty":%d,"price":"%d.%04d","weight":%v,"sold_at":%q}`+"\n",
		id, e.shop, sku, e.qty, e.price/10000, e.price%10000, e.weight, e.at.Format("2006-01-02T15:04:05.000000Z"))
}

// producer sends numbered requests until it is stopped. It resends a request
// until it is acknowledged.
type producer struct {
	id        int
	seed      uint64
	attempted atomic.Uint64 // highest number that may be in the log
	acked     atomic.Uint64 // highest number that must be in the log
	token     atomic.Value  // string: of the last acknowledgement
}

func (p *producer) run(ctx context.Context, c *cluster, gap time.Duration, t *testing.T) {
	r := rand.New(rand.NewPCG(p.seed, uint64(p.id)+77))
	var body bytes.Buffer
	for ctx.Err() == nil {
		first := p.acked.Load() + 1
		count := uint64(1 + r.IntN(40))
		resend := r.IntN(20) == 0
		body.Reset()
		for n := first; n < first+count; n++ {
			newEvent(p.seed, p.id, n).json(&body)
		}
		p.attempted.Store(first + count - 1)
		req := &duetv1.AppendRequest{
			Stream:           "sales",
			Payload:          &duetv1.AppendRequest_JsonLines{JsonLines: body.Bytes()},
			Producer:         fmt.Sprintf("p%d", p.id),
			ProducerSequence: first,
		}
		for range 1 + btoi(resend) {
			if !p.send(c, req, t) {
				return
			}
		}
		p.acked.Store(first + count - 1)
		if gap > 0 && !c.pause(gap) {
			return
		}
	}
}

// send repeats a request until it is acknowledged; it returns false if the test
// ends first.
func (p *producer) send(c *cluster, req *duetv1.AppendRequest, t *testing.T) bool {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		res, err := duetv1.NewIngestServiceClient(c.conn).Append(ctx, req)
		cancel()
		if err == nil {
			p.token.Store(res.GetToken())
			return true
		}
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Canceled:
		default:
			t.Errorf("append %s from %d: %v", req.Producer, req.ProducerSequence, err)
			return false
		}
		if !c.pause(20 * time.Millisecond) {
			return false
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// load is a set of producers that can be started and stopped.
type load struct {
	producers []*producer
	gap       time.Duration // between a producer's requests
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

func newLoad(seed uint64, n int) *load {
	l := &load{}
	for i := range n {
		l.producers = append(l.producers, &producer{id: i + 1, seed: seed})
	}
	return l
}

func (l *load) start(c *cluster, t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for _, p := range l.producers {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			p.run(ctx, c, l.gap, t)
		}()
	}
}

// rest stops the producers and waits until every request is acknowledged. Then
// the acknowledged events are exactly the attempted ones.
func (l *load) rest() {
	if l.cancel == nil { // never started
		return
	}
	l.cancel()
	l.wg.Wait()
}

// acked returns how many events were acknowledged, rejected ones included.
func (l *load) acked() (n uint64) {
	for _, p := range l.producers {
		n += p.acked.Load()
	}
	return n
}

func (l *load) attempted() (n uint64) {
	for _, p := range l.producers {
		n += p.attempted.Load()
	}
	return n
}

func (l *load) tokens() (out []string) {
	for _, p := range l.producers {
		if s, ok := p.token.Load().(string); ok && s != "" {
			out = append(out, s)
		}
	}
	return out
}
