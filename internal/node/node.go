// Package node runs the whole platform in one process: it opens what the data
// folder holds in order, recovers, joins both halves and the serving layer, and
// stops everything in the opposite order.
//
// Start reading at [Node.steps], which is the order; lane.go is one log with
// what belongs to it, recover.go restores the state that the last process had,
// live_adapter.go is the live half as the batch half sees it. Nothing imports
// this package but cmd/duet and tests.
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
	"duet/batch/scrub"
	"duet/internal/base/failpoint"
	"duet/internal/base/lifecycle"
	"duet/serving"
	"duet/serving/query"
	"duet/serving/store"
	"duet/speed/eventlog"
)

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
	// Child returns the command that computes a generation; the job file's path
	// is appended. Defaults to this executable's batch-child command.
	Child func() *exec.Cmd
	Log   *slog.Logger // defaults to slog.Default()
	// Drain archives every event of the log and serves nothing; see [Node.Drained].
	Drain bool
	// Redecode permits this version to decode events that another version has decoded
	// and that are not archived. The log lists the messages whose verdicts change.
	Redecode bool
	// versions defaults to this executable's. Tests run another one.
	versions versions
}

// Node is one running platform. Start it once. Stop may be called more than
// once, and without Start.
type Node struct {
	cfg    Config
	logger *slog.Logger
	definitions
	data    *dataDir
	metrics *serving.Metrics
	server  *serving.Server

	// Set by the steps, in this order.
	lane     lane
	catalog  *catalog.Catalog
	store    *store.Store
	runner   *batch.Runner
	scrubber *scrub.Scrubber
	ready    atomic.Bool
	phase    atomic.Value  // string: the step that is starting
	changed  bool          // the project or a version differs from those in force
	before   *versions     // the versions in force at start; nil if none are
	redecode bool          // events of another version are decoded again
	drained  chan struct{} // see Drained

	list   lifecycle.List
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   sync.Once
	failed chan error // holds one error: why the platform must end
	cause  atomic.Pointer[error]
}

// New checks the project and locks the data folder. It returns project.Faults
// if the project has faults.
func New(cfg Config) (*Node, error) {
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
	if cfg.versions == (versions{}) {
		cfg.versions = currentVersions
	}
	if err := failpoint.Check(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, logger: cfg.Log, metrics: serving.NewMetrics(), failed: make(chan error, 1), drained: make(chan struct{})}
	n.list.Steps = n.steps()
	n.phase.Store(n.list.Steps[0].Name)
	var err error
	if n.definitions, err = define(cfg.Project, cfg.Log); err != nil {
		return nil, err
	}
	if n.server, err = serving.New(serving.Config{
		GRPC: cfg.GRPC, HTTP: cfg.HTTP, AllowRemote: cfg.AllowRemote, Project: n.project, Folder: cfg.Project, Version: cfg.Version,
		Phase: func() string { return n.phase.Load().(string) }, Failure: n.failure, Metrics: n.metrics, Log: cfg.Log,
	}); err == nil {
		n.data, err = openData(cfg.Data)
	}
	if err != nil {
		n.compiler.Close()
		return nil, err
	}
	return n, nil
}

// steps is everything behind the server, in the order in which it starts; it
// stops in the opposite order.
func (n *Node) steps() []lifecycle.Step {
	l := &n.lane
	steps := []lifecycle.Step{
		{Name: "opening the log", Start: n.openLog, Stop: closes(func() error { return l.log.Close() })},
		{Name: "comparing the definitions", Start: n.compareDefinitions},
		{Name: "opening the archive", Start: n.openArchive, Stop: closes(func() error { return l.archive.Close() })},
		{Name: "comparing the versions", Start: n.compareVersions},
		{Name: "opening the generations", Start: n.openCatalog},
		{Name: "opening the store", Start: n.openStore, Stop: closes(func() error { return n.store.Close() })},
		{Name: "recovering from the archive", Start: n.recoverStore},
		{Name: "putting the definitions in force", Start: n.enforceDefinitions},
		{Name: "starting the live half", Start: n.startLive, Stop: n.stopLive},
		{Name: "starting the archiver", Start: n.startArchiver, Stop: stops(func() { l.archiver.Stop() })},
		{Name: "starting the trimmer", Start: n.startTrimmer, Stop: stops(func() { l.trimmer.Stop() })},
		{Name: "opening the scrubber", Start: n.openScrubber},
		{Name: "opening the batch half", Start: n.openRunner},
		{Name: "reading the log", Start: n.catchUp},
	}
	if n.cfg.Drain {
		return append(steps, lifecycle.Step{Name: "archiving the log", Start: n.drainAndEnd})
	}
	return append(steps, []lifecycle.Step{
		{Name: "starting the appender", Start: n.startAppender, Stop: stops(func() { l.appender.Close() })},
		{Name: "starting the batch half", Start: func(ctx context.Context) error { return n.runner.Start(ctx) }, Stop: stops(func() { n.runner.Stop() })},
		{Name: "watching the log's size", Start: func(ctx context.Context) error { return l.filling.Start(context.WithoutCancel(ctx)) }, Stop: stops(func() { l.filling.Stop() })},
		{Name: "starting the scrubber", Start: n.startScrubber, Stop: stops(func() { n.scrubber.Stop() })},
		{Name: "letting calls through", Start: n.serve, Stop: n.drainOnStop},
		{Name: "rebuilding views", Start: n.rebuildViews},
	}...)
}

func closes(f func() error) func(context.Context) error {
	return func(context.Context) error { return f() }
}

func stops(f func()) func(context.Context) error {
	return func(context.Context) error { f(); return nil }
}

// Start listens and recovers in the background. Until the live half has caught
// up, calls are refused with the progress; see [Node.Ready].
func (n *Node) Start(ctx context.Context) error {
	if err := n.server.Start(ctx); err != nil {
		return err
	}
	ctx, n.cancel = context.WithCancel(ctx)
	n.wg.Go(func() {
		if err := n.list.Start(ctx, func(name string) { n.phase.Store(name) }); err != nil && ctx.Err() == nil {
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

// watch ends the platform when a part of it ends by itself.
func (n *Node) watch(ctx context.Context, done <-chan struct{}, why func() error) {
	n.wg.Go(func() {
		select {
		case <-done:
			if ctx.Err() == nil {
				n.fail(why())
			}
		case <-ctx.Done():
		}
	})
}

func (n *Node) compareDefinitions(ctx context.Context) (err error) {
	n.changed, n.before, err = differs(ctx, n.data, n.lane.log, n.project, n.cfg.versions)
	return err
}

func (n *Node) enforceDefinitions(ctx context.Context) error {
	if !n.changed {
		return nil
	}
	if err := putInForce(ctx, n.data, n.lane.log, n.project, n.cfg.versions); err != nil {
		return err
	}
	n.logger.Info("definitions are in force", "at", n.lane.log.Last())
	return nil
}

func (n *Node) openCatalog(ctx context.Context) (err error) {
	n.catalog, err = catalog.Open(catalog.Config{Dir: n.data.sub("generations"), Keep: catalog.Keep(n.project.Batch.Keep)})
	return n.withRemedy(ctx, err)
}

func (n *Node) openStore(context.Context) (err error) {
	groups := map[string]int{}
	for _, v := range n.project.Views {
		if v.MaxGroups > 0 {
			groups[v.Name] = v.MaxGroups
		}
	}
	n.store, err = store.Open(store.Config{
		MemoryLimit: n.project.Limits.Memory, BlockLog: n.project.Limits.Log / 16, TempDir: n.data.sub("tmp"), MaxGroups: groups, OnSuspend: n.suspended, Log: n.logger,
		Readers: query.Readers() + 4, // and those of status, rejects, exports and the archiver
	}, n.streamSchemas(), n.views)
	return err
}

func (n *Node) recoverStore(ctx context.Context) (err error) {
	n.lane.state, err = n.recover(ctx)
	return n.withRemedy(ctx, err)
}

func (n *Node) openRunner(context.Context) (err error) {
	if n.runner, err = n.newRunner(); err != nil {
		return err
	}
	var views []query.View
	for i, v := range n.views {
		views = append(views, query.View{Project: n.project.Views[i], Compiled: v})
	}
	l := &n.lane
	n.server.Attach(serving.Platform{
		Views: views, Log: l.log, Adoptions: l.adoptions, Live: l.live, Store: n.store, Archive: l.archive, Archiver: l.archiver,
		Catalog: n.catalog, Runner: n.runner, Scrubber: n.scrubber, Accounts: n.accounts,
	})
	return nil
}

// catchUp returns when the live half has passed what was the log's last message
// at start: nothing is answered before (H9).
func (n *Node) catchUp(ctx context.Context) error {
	select {
	case <-n.lane.live.CaughtUp():
		n.lane.verdicts.complete()
		return nil
	case <-n.lane.live.Done():
		return n.lane.live.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serve lets calls through.
func (n *Node) serve(context.Context) error {
	n.server.Open(n.lane.appender)
	n.ready.Store(true)
	p := n.lane.live.Progress()
	n.logger.Info("ready", "events_replayed", p.Events, "generation", n.generationNumber(), "live_through", p.Through)
	return nil
}

// rebuildViews starts a run if the generation lacks a view in its present
// version. The other views are served meanwhile.
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

// fail keeps the first error that the platform cannot go on with.
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

// Failed delivers the error with which the platform cannot go on; the caller
// stops it and ends the process.
func (n *Node) Failed() <-chan error { return n.failed }

// GRPCAddr returns the address of gRPC.
func (n *Node) GRPCAddr() string { return n.server.GRPCAddr() }

// HTTPAddr returns the address of the page, JSON and metrics.
func (n *Node) HTTPAddr() string { return n.server.HTTPAddr() }

// Ready reports whether queries are answered.
func (n *Node) Ready() bool { return n.ready.Load() }

// Stop refuses new calls, lets calls under way end until ctx does, stops every
// step in the opposite order of its start, and unlocks the data folder.
func (n *Node) Stop(ctx context.Context) {
	n.stop.Do(func() {
		if err := n.server.Stop(ctx); err != nil {
			n.logger.Warn("not every call ended in time", "error", err)
		}
		if n.cancel != nil {
			n.cancel()
		}
		n.wg.Wait()
		if err := errors.Join(n.list.Stop(ctx), n.compiler.Close()); err != nil {
			n.logger.Warn("while stopping", "error", err)
		}
		n.data.close()
	})
}

// archiveHooks log what the archiver does and wake the trimmer.
func (n *Node) archiveHooks() archive.Hooks {
	return archive.Hooks{
		Committed: func(m *archive.Manifest, took time.Duration) {
			n.logger.Debug("archived", "manifest", m.Number, "through", m.Through.Position(), "took", took)
			n.lane.trimmer.wake()
			n.lane.verdicts.archived(m.Through.Position())
		},
		Failed: func(step string, err error, wait time.Duration) {
			n.logger.Error("archiving failed", "step", step, "error", err, "retry_in", wait)
			if wait == 0 {
				n.fail(err)
			}
		},
	}
}

// control is called for each control record that is not a cut marker. The
// streams in force now also read what stands before the record, because a
// stream never changes its meaning: so only the kind is checked.
func control(m eventlog.Message) error {
	switch m.Control {
	case "begin", definitionsKind:
		return nil
	}
	return fmt.Errorf("message %s of the log is a control record of kind %q, which this version of duet does not know: use the version that wrote it", m.At, m.Control)
}
