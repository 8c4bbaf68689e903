package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"duet/internal/client"
	"duet/schemas/duetv1"
)

// DriverConfig configures a [Driver].
type DriverConfig struct {
	Client *client.Client
	// State is the file that holds the driver's identity and progress. Keep it
	// with the server's data folder: one is useless without the other.
	State           string
	Seed            uint64
	OrdersPerMinute float64          // as in Config
	History         time.Duration    // sent as fast as possible at first; defaults to DefaultHistory
	Progress        func(Progress)   // optional; called about ten times a second, from Run
	Waiting         func(err error)  // optional; called with the error before each retry
	Now             func() time.Time // defaults to time.Now
}

// DefaultHistory is how much history a new shop sends.
const DefaultHistory = 21 * 24 * time.Hour

// Progress says how far a driver is.
type Progress struct {
	Events  uint64    // acknowledged, over all time
	Through time.Time // time of the newest generated event
	Done    float64   // share of the history, 0 to 1
	Live    bool      // the history is sent; events come as they happen
}

// A Driver feeds a shop's events to a server: first its history, then events as
// they happen. A driver that is stopped and started with the same state resumes;
// its events are numbered, so the server drops those that it already has.
type Driver struct {
	config DriverConfig
	state  state
	shown  time.Time

	mu    sync.Mutex
	acked map[string]uint64 // by stream: the last number that the log holds
}

// state is the content of the State file. If it is stale, the difference is
// resent, and the server drops it.
type state struct {
	Seed            uint64            `json:"seed"`
	Start           time.Time         `json:"start"`
	OrdersPerMinute float64           `json:"orders_per_minute"`
	Acked           map[string]uint64 `json:"acked"`
}

// NewDriver returns a driver that resumes from its State file, or creates the
// file.
func NewDriver(config DriverConfig) (*Driver, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.History == 0 {
		config.History = DefaultHistory
	}
	d := &Driver{config: config, acked: map[string]uint64{}}
	text, err := os.ReadFile(config.State)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.state = state{
			Seed:            config.Seed,
			Start:           config.Now().UTC().Add(-config.History).Truncate(24 * time.Hour),
			OrdersPerMinute: config.OrdersPerMinute,
		}
		if err := d.save(); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(text, &d.state); err != nil {
			return nil, fmt.Errorf("%s cannot be read, so the demo cannot resume; remove its data folder to start a new one: %w", config.State, err)
		}
		maps.Copy(d.acked, d.state.Acked)
	}
	return d, nil
}

// save replaces the state file atomically.
func (d *Driver) save() error {
	d.mu.Lock()
	d.state.Acked = maps.Clone(d.acked)
	d.mu.Unlock()
	text, err := json.MarshalIndent(d.state, "", "  ")
	if err != nil {
		return err
	}
	next := d.config.State + ".next"
	if err := os.MkdirAll(filepath.Dir(next), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(next, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, d.config.State)
}

// Limits of a request.
const (
	requestEvents = 1000
	requestBytes  = 256 << 10
)

// A pendingRequest collects one stream's events for a request.
type pendingRequest struct {
	lines []byte
	first uint64 // number of the first
	count int
}

// Run sends events until ctx ends, which is not an error, or the server returns
// an error that is not retryable.
func (d *Driver) Run(ctx context.Context) (err error) {
	sender := d.config.Client.NewSender(ctx, client.SenderConfig{
		Retry:   client.RetryPolicy{Limit: -1},
		Waiting: d.config.Waiting,
		Acked: func(request *duetv1.AppendRequest, _ *duetv1.AppendResponse) {
			lines := uint64(bytes.Count(request.GetJsonLines(), []byte{'\n'}))
			d.mu.Lock()
			defer d.mu.Unlock()
			d.acked[request.GetStream()] = request.GetProducerSequence() + lines - 1
		},
	})
	defer func() {
		sender.Stop()
		err = errors.Join(err, d.save())
		if ctx.Err() != nil {
			err = nil
		}
	}()
	requests := map[string]*pendingRequest{}
	numbers := map[string]uint64{} // by stream: the last generated event's
	known := maps.Clone(d.acked)   // acknowledged before this run
	saved := d.config.Now()
	s := New(Config{Seed: d.state.Seed, Start: d.state.Start, OrdersPerMinute: d.state.OrdersPerMinute})
	for {
		e := s.Next()
		numbers[e.Stream]++
		number := numbers[e.Stream]
		if number <= known[e.Stream] {
			continue
		}
		live := false
		if wait := e.At.Sub(d.config.Now()); wait > 0 {
			live = true
			for _, stream := range Streams {
				if err := d.flush(sender, stream, requests[stream]); err != nil {
					return err
				}
			}
			d.show(e.At, true)
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		}
		p := requests[e.Stream]
		if p == nil {
			p = &pendingRequest{}
			requests[e.Stream] = p
		}
		if p.count == 0 {
			p.first = number
		}
		p.lines = append(append(p.lines, e.JSON...), '\n')
		p.count++
		if p.count >= requestEvents || len(p.lines) >= requestBytes {
			if err := d.flush(sender, e.Stream, p); err != nil {
				return err
			}
			d.show(e.At, live)
		}
		if now := d.config.Now(); now.Sub(saved) > time.Second {
			saved = now
			if err := d.save(); err != nil {
				return err
			}
		}
	}
}

// producer returns the producer of a stream. It contains the start of business,
// so that a new shop is another producer.
func (d *Driver) producer(stream string) string {
	return fmt.Sprintf("shop.%d.%s:%s", d.state.Seed, d.state.Start.Format("20060102"), stream)
}

// flush sends a pending request and empties it.
func (d *Driver) flush(sender *client.Sender, stream string, p *pendingRequest) error {
	if p == nil || p.count == 0 {
		return nil
	}
	err := sender.Send(&duetv1.AppendRequest{
		Stream:           stream,
		Payload:          &duetv1.AppendRequest_JsonLines{JsonLines: p.lines},
		Producer:         d.producer(stream),
		ProducerSequence: p.first,
	})
	*p = pendingRequest{}
	return err
}

// show reports progress, at most ten times a second during the history.
func (d *Driver) show(through time.Time, live bool) {
	now := d.config.Now()
	if d.config.Progress == nil || !live && now.Sub(d.shown) < 100*time.Millisecond {
		return
	}
	d.shown = now
	progress := Progress{Through: through, Live: live, Done: 1}
	if !live {
		progress.Done = float64(through.Sub(d.state.Start)) / float64(now.Sub(d.state.Start))
	}
	d.mu.Lock()
	for _, n := range d.acked {
		progress.Events += n
	}
	d.mu.Unlock()
	d.config.Progress(progress)
}

// sleep waits for d. It fails only when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
