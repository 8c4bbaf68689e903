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

// DriverConfig describes a [Driver].
type DriverConfig struct {
	Client *client.Client
	// State is the file in which the driver keeps who it is and how far it has
	// come. It belongs beside the server's data: both live and die together.
	State           string
	Seed            uint64
	OrdersPerMinute float64          // as in Config
	History         time.Duration    // sent as fast as possible at first; defaults to DefaultHistory
	Progress        func(Progress)   // called about ten times a second, from Run; nil means nobody listens
	Waiting         func(err error)  // why sending is tried again; nil means nobody listens
	Now             func() time.Time // defaults to time.Now
}

// DefaultHistory is how much of its past a shop sends at first.
const DefaultHistory = 21 * 24 * time.Hour

// Progress is how far a driver has come.
type Progress struct {
	Events  uint64    // acknowledged, over all time
	Through time.Time // when the newest generated event happened
	Done    float64   // of the history, 0 to 1
	Live    bool      // the history is sent; events come as they happen
}

// A Driver is the shop's feed: first its history, then its business as it
// happens. Ended at any moment and run again with the same state, it goes on
// where it was: events are numbered, so that the door drops what it has.
type Driver struct {
	config DriverConfig
	state  state
	shown  time.Time

	mu    sync.Mutex
	acked map[string]uint64 // numbers that the log holds, by stream
}

// state is the State file. A stale one is harmless: the difference is sent
// again and dropped.
type state struct {
	Seed            uint64            `json:"seed"`
	Start           time.Time         `json:"start"`
	OrdersPerMinute float64           `json:"orders_per_minute"`
	Acked           map[string]uint64 `json:"acked"`
}

// NewDriver reads or begins the state.
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
			return nil, fmt.Errorf("%s: %w: the demo cannot go on; remove its folder to begin a new one", config.State, err)
		}
		maps.Copy(d.acked, d.state.Acked)
	}
	return d, nil
}

// save writes the state; a reader sees the old one or the new one.
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

// What a request of the history holds at most.
const (
	requestEvents = 1000
	requestBytes  = 256 << 10
)

// A pendingRequest gathers one stream's events for a request.
type pendingRequest struct {
	lines []byte
	first uint64 // number of the first
	count int
}

// Run sends until ctx ends, which is no error, or the server refuses for good.
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
	parcels := map[string]*pendingRequest{}
	numbers := map[string]uint64{} // of the last generated event, by stream
	known := maps.Clone(d.acked)   // sent before this run
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
				if err := d.flush(sender, stream, parcels[stream]); err != nil {
					return err
				}
			}
			d.show(e.At, true)
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		}
		p := parcels[e.Stream]
		if p == nil {
			p = &pendingRequest{}
			parcels[e.Stream] = p
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

// producer names the feed of one stream. It holds the start, so that a shop
// begun anew is another producer.
func (d *Driver) producer(stream string) string {
	return fmt.Sprintf("shop.%d.%s:%s", d.state.Seed, d.state.Start.Format("20060102"), stream)
}

// flush hands a parcel to the sender and empties it.
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

// show tells how far it is, not too often, and always when live begins.
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

// sleep waits; an error is ctx's.
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
