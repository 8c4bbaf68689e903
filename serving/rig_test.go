package serving

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/batch/scrub"
	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/view"
	"duet/serving/query/querytest"
	"duet/serving/store"
	"duet/speed"
	"duet/speed/eventlog"
)

// childRole, in the environment, makes the test binary the runner's child.
const childRole = "DUET_SERVING_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childRole) != "" {
		os.Exit(recompute.Main(os.Args[len(os.Args)-1], os.Stdin, os.Stdout))
	}
	if addr := os.Getenv(clientsRole); addr != "" {
		os.Exit(clientsMain(addr))
	}
	goleak.VerifyTestMain(m)
}

var testNow = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var quiet = slog.New(slog.DiscardHandler)

// rig is a running server with clients for both ports. Its log, store and live
// half are real and hold what a test appends; its batch half is real over the
// events of a batchtest.World; its queries read the events of a
// querytest.Fixture.
type rig struct {
	*Server
	t        testing.TB
	fixture  *querytest.Fixture
	log      *eventlog.Log
	live     *speed.Live
	world    *batchtest.World
	runner   *batch.Runner
	appender *eventlog.Appender
	conn     *grpc.ClientConn
	client   *http.Client

	mu     sync.Mutex
	orders schemas.Account
}

func (r *rig) counted() map[string]schemas.Account {
	r.mu.Lock()
	defer r.mu.Unlock()
	return map[string]schemas.Account{"orders": r.orders}
}

func (r *rig) must(err error) {
	if err != nil {
		r.t.Helper()
		r.t.Fatal(err)
	}
}

// listening returns a rig whose server has no platform yet. change may adjust
// its config.
func listening(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, fixture: querytest.New(t)}
	cfg := Config{
		GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Project: r.fixture.Project, Version: "v1.2.3",
		Phase: func() string { return "opening the log" },
		Log:   quiet, Now: func() time.Time { return testNow },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	r.Server, err = New(cfg)
	r.must(err)
	r.http.ReadHeaderTimeout = time.Second
	r.must(r.Start(t.Context()))
	r.conn, err = grpc.NewClient(r.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	r.must(err)
	transport := &http.Transport{}
	r.client = &http.Client{Transport: transport}
	t.Cleanup(r.stop)
	return r
}

// stop stops the server; it may be called more than once.
func (r *rig) stop() {
	r.conn.Close()
	r.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		r.t.Error(err)
	}
}

// attached returns a rig with a platform that has not been opened yet.
func attached(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := listening(t, change)
	dir := t.TempDir()
	p := Platform{Views: r.fixture.Views, Accounts: r.counted}
	r.openLive(dir, &p)
	r.openBatch(dir, &p)
	r.Attach(p)
	r.api.platform.Load().engine = r.fixture.Engine(nil)
	t.Cleanup(r.stop) // before the parts are closed
	return r
}

// opened returns a rig that answers calls.
func opened(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := attached(t, change)
	r.open()
	return r
}

func (r *rig) open() {
	r.appender = eventlog.NewAppender(r.log, nil)
	r.t.Cleanup(r.appender.Close)
	r.t.Cleanup(r.stop)
	r.Open(r.appender)
}

// openLive opens a log, a store, a live half and an archive.
func (r *rig) openLive(dir string, p *Platform) {
	r.t.Helper()
	var err error
	r.log, err = eventlog.Open(r.t.Context(), eventlog.Config{Dir: filepath.Join(dir, "log"), Project: "shop", Logger: quiet})
	r.must(err)
	r.t.Cleanup(func() { r.must(r.log.Close()) })
	var compiled []*view.View
	for _, v := range r.fixture.Views {
		compiled = append(compiled, v.Compiled)
	}
	schema := event.NewSchema(r.fixture.Project.Streams[0])
	p.Store, err = store.Open(store.Config{Log: quiet, MemoryLimit: 1 << 30, TempDir: filepath.Join(dir, "spill")}, []*event.Schema{schema}, compiled)
	r.must(err)
	r.t.Cleanup(func() { r.must(p.Store.Close()) })
	r.live, err = speed.New(speed.Config{
		Open:  func(ctx context.Context, after schemas.Position) (speed.Source, error) { return r.log.Read(ctx, after) },
		Store: p.Store, Sequencer: event.NewSequencer(map[string]*event.Schema{"orders": schema}, event.NewState()), Target: r.log.Last(),
		Hooks: speed.Hooks{Applied: func(a speed.Applied) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, s := range a.Accounts {
				r.orders.Add(s.Account)
			}
		}},
	})
	r.must(err)
	r.must(r.live.Start(context.Background()))
	r.t.Cleanup(r.live.Stop)
	<-r.live.CaughtUp()
	p.Archive, err = archive.Open(r.t.Context(), archive.Config{Dir: filepath.Join(dir, "archive"), Incarnation: r.log.Incarnation(), EventTime: map[string]string{"orders": "sold_at"}})
	r.must(err)
	r.t.Cleanup(func() { r.must(p.Archive.Close()) })
	p.Archiver = archive.NewArchiver(p.Archive, p.Store, archive.Hooks{})
	r.must(p.Archiver.Start(context.Background()))
	r.t.Cleanup(p.Archiver.Stop)
	p.Log, p.Live = r.log, r.live
}

// openBatch opens a batch half over a world of 150 events.
func (r *rig) openBatch(dir string, p *Platform) {
	r.t.Helper()
	dir = filepath.Join(dir, "world")
	r.must(os.MkdirAll(dir, 0o755))
	var err error
	p.Catalog, err = catalog.Open(catalog.Config{Dir: filepath.Join(dir, "generations")})
	r.must(err)
	files, err := archive.Open(r.t.Context(), archive.Config{Dir: filepath.Join(dir, "archive"), Incarnation: batchtest.Incarnation, EventTime: map[string]string{batchtest.Stream: "sold_at"}})
	r.must(err)
	r.t.Cleanup(func() { r.must(files.Close()) })
	r.world, err = batchtest.Open(batchtest.Config{Seed: 1, Dir: dir, Archive: files}, 0, nil, p.Catalog)
	r.must(err)
	r.t.Cleanup(r.world.Close)
	archiver := archive.NewArchiver(files, r.world, archive.Hooks{})
	r.must(archiver.Start(context.Background()))
	r.t.Cleanup(archiver.Stop)
	r.runner, err = batch.NewRunner(batch.Config{
		Dir: dir, Archive: files, Catalog: p.Catalog, Live: r.world, Views: batchtest.Views, Archiver: archiver,
		Child: func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childRole+"=1")
			return cmd
		},
		Fatal: func(err error) { r.t.Error(err) },
	})
	r.must(err)
	r.must(r.runner.Start(context.Background()))
	r.t.Cleanup(r.runner.Stop)
	p.Runner = r.runner
	p.Scrubber, err = scrub.New(scrub.Config{Archive: files, Catalog: p.Catalog, Path: filepath.Join(dir, "scrub.json")})
	r.must(err)
	r.must(p.Scrubber.Start(context.Background()))
	r.t.Cleanup(p.Scrubber.Stop)
	r.must(r.world.Append(30))
}

// run runs the batch half once and returns the run's id.
func (r *rig) run() string {
	r.t.Helper()
	run, err := r.runner.Run(batch.Request{})
	r.must(err)
	if run, err = r.runner.Wait(r.t.Context(), run.ID); err != nil || run.State != batch.Published {
		r.t.Fatal(run, err)
	}
	return run.ID
}

// appended returns the envelopes of the log.
func (r *rig) appended() []event.Envelope {
	r.t.Helper()
	var out []event.Envelope
	r.must(r.log.List(r.t.Context(), r.log.First(), r.log.Last(), func(e eventlog.Entry) error {
		if e.Subject != "duet.e.orders" {
			return nil
		}
		env, err := event.ParseEnvelope(e.Data)
		out = append(out, env)
		return err
	}))
	return out
}

func (r *rig) url(path string) string { return fmt.Sprintf("http://%s%s", r.HTTPAddr(), path) }
