package search

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
)

const (
	readerCount = 2
	maxSamples  = 12
)

// sample is an answer to be compared later.
type sample struct {
	spec       *viewSpec
	name       string
	generation uint64
	through    int64
	res        *duetv1.QueryResponse
}

// readers query continuously. What they find wrong fails the next check.
type readers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	seen    [readerCount][2]uint64 // generation and sequence, by reader, across restarts (H9)
	answers map[string]string      // view, serial and sequence to exact answer
	samples []sample
	serials map[*viewSpec]int
	asked   int
	err     error
}

func newReaders() *readers {
	return &readers{answers: map[string]string{}, serials: map[*viewSpec]int{}}
}

func (p *readers) start(client duetv1.ViewServiceClient, defs *definitions) {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	defs = defs.clone()
	for i := range readerCount {
		p.wg.Go(func() { p.read(ctx, i, client, defs) })
	}
}

func (p *readers) stop() {
	if p.cancel != nil {
		p.cancel()
		p.wg.Wait()
	}
}

// take returns the samples since the last call, and the first error.
func (p *readers) take() ([]sample, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.samples
	p.samples = nil
	return s, p.err
}

func (p *readers) read(ctx context.Context, me int, client duetv1.ViewServiceClient, defs *definitions) {
	r := rand.New(rand.NewPCG(uint64(me), uint64(time.Now().UnixNano()))) // what is asked when is chance anyway
	names := defs.names()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		name := pick(r, names...)
		res, err := client.Query(ctx, &duetv1.QueryRequest{View: name, Limit: 10000})
		if ctx.Err() != nil {
			return
		}
		p.note(me, name, defs.views[name], res, err)
	}
}

func (p *readers) note(me int, name string, spec *viewSpec, res *duetv1.QueryResponse, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		switch code := status.Code(err); {
		case code == codes.Unavailable, code == codes.FailedPrecondition && spec.raises, code == codes.DeadlineExceeded:
		default:
			p.fail("a reader of %s: %v", name, err)
		}
		return
	}
	p.asked++
	g, l := res.GetProof().GetGeneration(), res.GetProof().GetLiveThrough()[0].GetSequence()
	if before := p.seen[me]; g < before[0] || l < before[1] {
		p.fail("a reader of %s got (%d, %d) after (%d, %d) (H9)", name, g, l, before[0], before[1])
	}
	p.seen[me] = [2]uint64{g, l}
	if res.GetTruncated() {
		return
	}
	if _, ok := p.serials[spec]; !ok {
		p.serials[spec] = len(p.serials)
	}
	at, exact := fmt.Sprintf("%s %d %d", name, p.serials[spec], l), exactText(res)
	if before, ok := p.answers[at]; ok && before != exact {
		p.fail("two answers of %s at %d differ:\n%s\n%s", name, l, before, exact)
	}
	p.answers[at] = exact
	if len(p.samples) < maxSamples && !spec.raises {
		p.samples = append(p.samples, sample{spec, name, g, int64(l), res})
	}
}

// fail keeps the first error. mu is held.
func (p *readers) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}
