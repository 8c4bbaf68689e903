// Package node runs the whole platform in one process: it opens the data
// folder's parts in order, recovers, joins the two halves and the serving
// layer, and stops them in the opposite order.
//
// Start at [New] and [Node.Start]; recover.go says how the state of the last
// process comes back, halves.go how the batch half reaches the live half. The
// packages that it joins know nothing of each other but small interfaces, and
// none of them knows this one.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/failpoint"
	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/schemas/view"
	"duet/serving"
	"duet/serving/query"
	"duet/serving/store"
	"duet/speed"
	"duet/speed/eventlog"
)

// The named step of trimming the log.
var fpTrim = failpoint.New("log.trim")

// Config says what to run and where. Project, Data and Version are required.
type Config struct {
	Project fs.FS  // the project's folder
	Data    string // the data folder; nothing is written elsewhere
	GRPC    string // address; defaults to 127.0.0.1:7401
	HTTP    string // address; defaults to 127.0.0.1:7400
	// AllowRemote permits addresses that other machines reach: there is neither
	// TLS nor a login yet.
	AllowRemote bool
	Version     string
	// Child starts the process that computes a generation; the job file's path
	// is appended. Defaults to this executable's batch-child command.
	Child func() *exec.Cmd
	Log   *slog.Logger // defaults to slog.Default()
}

// Node is one running platform. Start it once; Stop it as often as you like.
type Node struct {
	cfg      Config
	log      *eventlog.Log
	logger   *slog.Logger
	project  *project.Project
	compiler *view.Compiler
	views    []*view.View // what the project defines
	totals   []*view.View // control totals, one a stream: see totals.go
	schemas  map[string]*event.Schema
	metrics  *serving.Metrics
	server   *serving.Server
	started  time.Time

	// Set while starting, in this order; opened says that all are there.
	data     *dataDir
	archive  *archive.Archive
	archiver *archive.Archiver
	catalog  *catalog.Catalog
	store    *store.Store
	live     *speed.Live
	door     *eventlog.Appender
	runner   *batch.Runner
	half     *serving.BatchHalf // the runner as clients see it
	allOpen  atomic.Bool
	ready    atomic.Bool
	phase    atomic.Value // string: what starting is at
	tally    tally

	trim   chan struct{} // one token: the archive has moved
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   sync.Once
	failed chan error // one error: why the platform must end
	cause  atomic.Pointer[error]
}

// New checks the project and takes the data folder's lock. The error is
// project.Faults if the project is at fault.
func New(cfg Config) (_ *Node, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Child == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this executable: %w", err)
		}
		cfg.Child = func() *exec.Cmd { return exec.Command(self, "batch-child") }
	}
	if err := failpoint.Check(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, logger: cfg.Log, schemas: map[string]*event.Schema{}, metrics: serving.NewMetrics(),
		started: time.Now(), trim: make(chan struct{}, 1), failed: make(chan error, 1),
	}
	n.phase.Store("opening the log")
	if err := n.define(cfg.Project); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.compiler.Close()
		}
	}()
	if n.server, err = serving.New(serving.Config{
		GRPC: cfg.GRPC, HTTP: cfg.HTTP, AllowRemote: cfg.AllowRemote, Project: n.project.Name, Operator: &operator{n},
		Progress: n.progress, Metrics: n.metrics, Log: cfg.Log,
	}); err != nil {
		return nil, err
	}
	if n.data, err = openData(cfg.Data); err != nil {
		return nil, err
	}
	return n, nil
}

// define loads and compiles the project.
func (n *Node) define(fsys fs.FS) error {
	p, faults := project.Load(fsys)
	if faults.Fatal() {
		return faults
	}
	n.project = p
	var err error
	if n.compiler, err = view.NewCompiler(p.Streams); err != nil {
		return err
	}
	for _, v := range p.Views {
		compiled, found := n.compiler.Compile(v)
		faults = append(faults, found...)
		if compiled != nil {
			n.views = append(n.views, compiled)
		}
	}
	if faults.Fatal() {
		n.compiler.Close()
		return faults
	}
	for _, f := range faults {
		n.logger.Warn("the project has a warning; duet check says more", "at", fmt.Sprintf("%s:%d", f.File, f.Line), "warning", f.Reason)
	}
	for _, s := range p.Streams {
		n.schemas[s.Name] = event.NewSchema(s)
		t, err := compileTotals(n.compiler, s)
		if err != nil {
			n.compiler.Close()
			return err
		}
		n.totals = append(n.totals, t)
	}
	return nil
}

// Start listens, and recovers in the background; calls are refused with the
// progress until the live half has caught up. Ready tells when that is.
func (n *Node) Start(ctx context.Context) error {
	if err := n.server.Start(ctx); err != nil {
		return err
	}
	ctx, n.cancel = context.WithCancel(ctx)
	n.wg.Go(func() {
		if err := n.open(ctx); err != nil && ctx.Err() == nil {
			n.fail(err)
		}
	})
	n.wg.Go(func() {
		select {
		case err := <-n.server.Failed():
			n.fail(err)
		case <-ctx.Done():
		}
	})
	return nil
}

// open brings up everything behind the server, in order.
func (n *Node) open(ctx context.Context) error {
	limits := n.project.Limits
	var err error
	if n.log, err = eventlog.Open(ctx, eventlog.Config{Dir: n.data.sub("log"), Project: n.project.Name, MaxBytes: limits.Log, Logger: n.logger}); err != nil {
		return err
	}
	changed, err := differs(ctx, n.data, n.log, n.project)
	if err != nil {
		return err
	}
	n.phase.Store("opening the archive")
	eventTimes := map[string]string{}
	var streams []*event.Schema
	for _, s := range n.project.Streams {
		if s.EventTime != "" {
			eventTimes[s.Name] = s.EventTime
		}
		streams = append(streams, n.schemas[s.Name])
	}
	if n.archive, err = archive.Open(ctx, archive.Config{Dir: n.data.sub("archive"), Incarnation: n.log.Incarnation(), EventTime: eventTimes,
		Repairer: &repairer{n.log, n.schemas, n.data.sub("tmp")}}); err != nil {
		return err
	}
	if err := n.log.CheckCut(n.archive.Current().Through); err != nil {
		return err
	}
	if n.catalog, err = catalog.Open(catalog.Config{Dir: n.data.sub("generations"), Keep: catalog.Keep(n.project.Batch.Keep)}); err != nil {
		return err
	}
	groups := map[string]int{}
	for _, v := range n.project.Views {
		if v.MaxGroups > 0 {
			groups[v.Name] = v.MaxGroups
		}
	}
	if n.store, err = store.Open(store.Config{
		MemoryLimit: limits.Memory, TempDir: n.data.sub("tmp"), MaxGroups: groups, OnSuspend: n.suspended, Log: n.logger,
	}, streams, append(append([]*view.View{}, n.views...), n.totals...)); err != nil {
		return err
	}
	n.phase.Store("recovering from the archive")
	state, err := n.recover(ctx)
	if err != nil {
		return err
	}
	if changed {
		if err := putInForce(ctx, n.data, n.log, n.project); err != nil {
			return err
		}
		n.logger.Info("definitions are in force", "at", n.log.Last())
	}
	return n.run(ctx, state)
}

// run starts the halves behind the archive's end and opens the doors when the
// live half has caught up.
func (n *Node) run(ctx context.Context, state *event.State) error {
	n.phase.Store("reading the log")
	sequencer := event.NewSequencer(n.schemas, state)
	after := n.archive.Through()
	n.tally.begin(n.archive.Current().Streams)
	var err error
	n.live, err = speed.New(speed.Config{
		Open:  func(ctx context.Context, after schemas.Position) (speed.Source, error) { return n.log.Read(ctx, after) },
		Store: n.store, Sequencer: sequencer, After: after, Target: n.log.Last(), Control: control,
		Hooks: speed.Hooks{
			Applied: func(a speed.Applied) {
				n.tally.add(a)
				n.metrics.LiveBatch(a.Events, a.Decoding+a.Folding)
			},
			Held:    func(err error) { n.logger.Error("the live half waits", "error", err) },
			Resumed: func() { n.logger.Info("the live half goes on") },
		},
	})
	if err != nil {
		return err
	}
	tail := &tail{n.store}
	n.archiver = archive.NewArchiver(n.archive, tail, archive.Hooks{
		Committed: func(m *archive.Manifest, took time.Duration) {
			n.logger.Debug("archived", "manifest", m.Number, "through", m.Through.Position(), "took", took)
			select {
			case n.trim <- struct{}{}:
			default:
			}
		},
		Failed: func(step string, err error, wait time.Duration) {
			n.logger.Error("archiving failed", "step", step, "error", err, "retry_in", wait)
			if wait == 0 {
				n.fail(err)
			}
		},
	})
	if n.runner, err = n.newRunner(); err != nil {
		return err
	}
	n.half = serving.NewBatch(n.runner, n.catalog, n.log.Incarnation())
	n.allOpen.Store(true)
	if err := n.archiver.Start(); err != nil {
		return err
	}
	if err := n.live.Start(ctx); err != nil {
		return err
	}
	n.wg.Go(func() { n.trimmer(ctx) })
	select {
	case <-n.live.CaughtUp():
	case <-n.live.Done():
		return n.live.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	// Nothing is appended before the door is there, so the sequencer rests.
	n.door = eventlog.NewAppender(n.log, sequencer.State().Producers())
	if err := n.runner.Start(); err != nil {
		return err
	}
	n.serve()
	n.wg.Go(func() {
		select {
		case <-n.live.Done():
			if ctx.Err() == nil {
				n.fail(n.live.Err())
			}
		case <-ctx.Done():
		}
	})
	return n.rebuildViews(ctx)
}

// control meets control records that are no cut markers. Streams that are in
// force now are also right for what stands before the record, for a stream
// never changes its meaning; so there is nothing to do but to know the kind.
func control(m eventlog.Message, _ *event.State) (*event.Sequencer, error) {
	switch m.Control {
	case "begin", definitionsKind:
		return nil, nil
	}
	return nil, fmt.Errorf("message %s of the log is a control record of kind %q, which this version of duet does not know: use the version that wrote it", m.At, m.Control)
}

// serve lets calls through.
func (n *Node) serve() {
	var views []query.View
	for i, v := range n.views {
		views = append(views, query.View{Project: n.project.Views[i], Compiled: v})
	}
	n.server.Open(serving.Backends{
		Engine: query.New(query.Config{
			Views: views, Streams: n.project.Streams, Store: query.StoreOf(n.store), Wait: n.live.Wait, Archive: query.ArchiveOf(n.archive), Generations: query.GenerationsOf(n.catalog),
			Incarnation: n.log.Incarnation(),
		}),
		Door: serving.DoorOf(n.door), Accounts: n.live, Batch: n.half,
		Streams: n.project.Streams, Incarnation: n.log.Incarnation(),
	})
	n.ready.Store(true)
	p := n.live.Progress()
	n.logger.Info("ready", "events_replayed", p.Events, "generation", n.generationNumber(), "live_through", p.Through)
}

// rebuildViews asks for a run if a view's definition is not the generation's.
func (n *Node) rebuildViews(ctx context.Context) error {
	st, err := n.store.Stats(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, v := range st.Views {
		if v.Problem != "" {
			names = append(names, v.View)
		}
	}
	if len(names) == 0 {
		return nil
	}
	run, err := n.runner.Run(batch.Request{})
	if err != nil {
		n.logger.Error("views cannot be rebuilt yet; the next run does it", "views", strings.Join(names, ", "), "error", err)
		return nil
	}
	n.logger.Info("rebuilding views from the archive", "views", strings.Join(names, ", "), "run", run.ID)
	return nil
}

// trimmer lets the log forget what the archive holds and the live half has
// passed (H5).
func (n *Node) trimmer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.trim:
		}
		err := fpTrim.Hit()
		if err == nil {
			err = n.log.Trim(ctx, min(n.archive.Through(), n.store.LiveThrough()))
		}
		if err != nil && ctx.Err() == nil {
			n.logger.Error("the log cannot be trimmed; the next archived block tries again", "error", err)
		}
	}
}

// fail remembers the first error that the platform cannot go on with.
func (n *Node) fail(err error) {
	if err == nil {
		err = errors.New("a part of the platform ended by itself")
	}
	if n.cause.CompareAndSwap(nil, &err) {
		n.failed <- err
	}
}

func (n *Node) failure() error {
	if p := n.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// Failed gives the error with which the platform cannot go on; the caller
// stops it and ends the process.
func (n *Node) Failed() <-chan error { return n.failed }

// GRPCAddr is the address of gRPC.
func (n *Node) GRPCAddr() string { return n.server.GRPCAddr() }

// HTTPAddr is the address of the page, JSON and metrics.
func (n *Node) HTTPAddr() string { return n.server.HTTPAddr() }

// Ready reports whether queries are answered.
func (n *Node) Ready() bool { return n.ready.Load() }

func (n *Node) opened() bool { return n.allOpen.Load() }

// progress says how far starting is.
func (n *Node) progress() (float64, string) {
	if n.Ready() {
		return 1, ""
	}
	if !n.opened() {
		return 0, n.phase.Load().(string)
	}
	p := n.live.Progress()
	if p.Target <= p.After {
		return 1, "reading the log"
	}
	part := float64(p.Through.Sequence()-min(p.After.Sequence(), p.Through.Sequence())) / float64(p.Target.Sequence()-p.After.Sequence())
	return min(part, 1), fmt.Sprintf("reading the log: message %s of %s", p.Through, p.Target)
}

// Stop ends everything, in the opposite order of its start, and gives the data
// folder back. Calls under way end until ctx does.
func (n *Node) Stop(ctx context.Context) {
	n.stop.Do(func() {
		if err := n.server.Stop(ctx); err != nil {
			n.logger.Warn("not every call ended in time", "error", err)
		}
		if n.cancel != nil {
			n.cancel()
		}
		n.wg.Wait()
		if n.door != nil {
			n.door.Close()
		}
		if n.runner != nil {
			n.runner.Stop()
		}
		if n.archiver != nil {
			n.archiver.Stop()
		}
		if n.live != nil {
			n.live.Stop()
		}
		for _, c := range []struct {
			there bool
			close func() error
		}{
			{n.store != nil, func() error { return n.store.Close() }},
			{n.archive != nil, func() error { return n.archive.Close() }},
			{n.log != nil, func() error { return n.log.Close() }},
			{true, n.compiler.Close},
		} {
			if !c.there {
				continue
			}
			if err := c.close(); err != nil {
				n.logger.Warn("while stopping", "error", err)
			}
		}
		n.data.close()
	})
}
