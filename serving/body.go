package serving

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"

	"golang.org/x/sync/semaphore"

	"duet/serving/reason"
)

// freeBody is the size up to which a body does not count against the budget: so
// small requests arrive whatever others send.
const freeBody = 64 << 10

// bodies reads requests into memory before they take a slot of the gate, so that
// slow ones hold nothing but their own connection. It bounds each body and their
// sum.
type bodies struct {
	max    int64
	budget *semaphore.Weighted // bytes of bodies beyond freeBody
	cfg    Config
}

func newBodies(cfg Config) *bodies {
	return &bodies{max: int64(cfg.MaxMessage), budget: semaphore.NewWeighted(cfg.MaxBodies), cfg: cfg}
}

// read replaces the body of r with its bytes. They count against the budget until
// release is called; it is never nil.
func (b *bodies) read(r *http.Request) (release func(), refused *reason.Error) {
	var held int64
	release = func() { b.budget.Release(held) }
	if r.Body == nil || r.Body == http.NoBody {
		return release, nil
	}
	if r.ContentLength > b.max {
		return release, b.tooLarge()
	}
	var buf bytes.Buffer
	for size := int64(freeBody); ; size *= 2 { // what is held doubles, as the buffer does
		_, err := io.CopyN(&buf, r.Body, min(size, b.max+1)-int64(buf.Len()))
		switch {
		case errors.Is(err, io.EOF):
			if int64(buf.Len()) > b.max {
				return release, b.tooLarge()
			}
			r.Body, r.ContentLength = io.NopCloser(&buf), int64(buf.Len())
			return release, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return release, reason.New(reason.DeadlineOver, "the body did not arrive within %s; nothing was done", b.cfg.BodyTimeout).Because(err)
		case err != nil:
			return release, reason.New(reason.Cancelled, "the body did not arrive whole; nothing was done").Because(err)
		case int64(buf.Len()) > b.max:
			return release, b.tooLarge()
		}
		if !b.budget.TryAcquire(size) {
			return release, reason.New(reason.Busy, "the server reads as many large requests as it allows; try again, with growing pauses, or send smaller ones")
		}
		held += size
	}
}

func (b *bodies) tooLarge() *reason.Error {
	return reason.New(reason.MessageTooLarge, "the body is larger than %d bytes; send less at once", b.max)
}
