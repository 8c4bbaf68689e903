package search

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"duet/internal/base/duck"
	"duet/internal/base/failpoint"
	"duet/internal/node"
	"duet/schemas"
	"duet/schemas/duetv1"
)

// childEnv makes the test binary act as a batch child.
const childEnv = "DUET_SEARCH_CHILD"

// world is a node, its clients, and the model of its answers. It is not safe for
// concurrent use; readers have their own state (probe_test.go).
type world struct {
	dir     string
	defs    *definitions
	ledgers map[string]*ledger // by stream
	oracle  *duck.DB
	now     time.Time
	no      int64 // accepted events, over all streams

	producers   map[string]uint64 // last number
	files       int               // chunks of files drawn
	events      int               // sent
	stops       int               // of the node
	token       string            // of the last append
	incarnation schemas.Incarnation

	gens map[uint64]*published
	run  string // started and not waited for

	node   *node.Node
	conn   *grpc.ClientConn
	ingest duetv1.IngestServiceClient
	views  duetv1.ViewServiceClient
	batch  duetv1.BatchServiceClient
	ops    duetv1.OperateServiceClient

	mu       sync.Mutex // guards childArm, which the node's goroutines read
	childArm string     // failpoints of the next children
	readers  *readers
	quiet    bool // start starts no readers
	log      io.Writer
	trace    func(format string, args ...any)
}

// published is the expected content of a generation.
type published struct {
	cut   int64 // sequence
	views map[string]*viewSpec
}

// newWorld returns a world with a random project; its node is not started.
func newWorld(t *testing.T, r *rand.Rand, trace func(string, ...any)) (*world, error) {
	dir, err := os.MkdirTemp(t.TempDir(), "world")
	if err != nil {
		return nil, err
	}
	w := &world{
		dir: dir, ledgers: map[string]*ledger{}, now: time.Now().UTC(), producers: map[string]uint64{}, gens: map[uint64]*published{}, trace: trace, log: io.Discard,
		defs: &definitions{views: map[string]*viewSpec{}},
	}
	if os.Getenv("DUET_SEARCH_LOG") != "" {
		w.log = os.Stderr
	}
	if w.oracle, err = duck.Open(duck.Config{Threads: 1}); err != nil {
		return nil, err
	}
	w.readers = newReaders()
	for range 1 + r.IntN(2) {
		if err := w.addStream(r); err != nil {
			return nil, err
		}
	}
	return w, w.defs.fill(r, 2+r.IntN(4))
}

func (w *world) addStream(r *rand.Rand) error {
	s := newStream(r, fmt.Sprintf("s%d", len(w.defs.streams)))
	w.defs.streams = append(w.defs.streams, s)
	w.ledgers[s.name] = newLedger()
	_, err := w.oracle.Exec("CREATE TABLE " + s.name + " (" + s.ddl() + ", p_at BIGINT, p_no BIGINT)")
	return err
}

func (w *world) child() *exec.Cmd {
	w.mu.Lock()
	defer w.mu.Unlock()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1", failpoint.Env+"="+w.childArm)
	return cmd
}

func (w *world) armChild(spec string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.childArm = spec
}

// start starts a node on the world's folder and waits until it is ready.
func (w *world) start(ctx context.Context) error {
	n, err := node.New(node.Config{
		Project: w.defs.folder(), Data: filepath.Join(w.dir, "data"), GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Version: "test",
		Child: w.child, Log: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	if err != nil {
		return err
	}
	w.node = n
	if err := n.Start(context.Background()); err != nil {
		return err
	}
	if err := w.until(ctx, "the node serves", func() (bool, error) { return n.Ready(), nil }); err != nil {
		return err
	}
	if w.conn, err = grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20))); err != nil {
		return err
	}
	w.ingest, w.views = duetv1.NewIngestServiceClient(w.conn), duetv1.NewViewServiceClient(w.conn)
	w.batch, w.ops = duetv1.NewBatchServiceClient(w.conn), duetv1.NewOperateServiceClient(w.conn)
	st, err := w.ops.GetStatus(ctx, &duetv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	last := st.GetLog().GetLast()
	w.incarnation = schemas.Incarnation{Ordinal: last.GetOrdinal(), ID: last.GetIncarnation()}
	if !w.quiet {
		w.readers.start(w.views, w.defs)
	}
	return nil
}

// stop stops the readers and the node; a running run is interrupted. Every other stop
// ends at once, so that the next start finds events that are not archived.
func (w *world) stop() {
	w.readers.stop()
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
	if w.node != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if w.stops++; w.stops%2 == 0 {
			cancel()
		}
		w.node.Stop(ctx)
		w.node = nil
	}
	w.run = ""
}

func (w *world) close() {
	w.stop()
	w.oracle.Close()
	os.RemoveAll(w.dir)
}

// errEnded reports that the node ended by itself, as it does after a failed switch.
type errEnded struct{ error }

// until polls done; it fails if the node ends first.
func (w *world) until(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case err := <-w.node.Failed():
			return errEnded{fmt.Errorf("before %s, the node ended: %w", what, err)}
		case <-ctx.Done():
			return fmt.Errorf("before %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// settle waits until no run is queued or running, and records the generations.
func (w *world) settle(ctx context.Context) error {
	err := w.until(ctx, "no run goes on", func() (bool, error) {
		res, err := w.batch.ListRuns(ctx, &duetv1.ListRunsRequest{PageSize: 5})
		if err != nil {
			return false, err
		}
		for _, run := range res.GetRuns() {
			if s := run.GetState(); s == duetv1.RunState_RUN_STATE_QUEUED || s == duetv1.RunState_RUN_STATE_RUNNING {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	id := w.run
	w.run = ""
	if err := w.noteGenerations(ctx); err != nil || id == "" {
		return err
	}
	return w.mustPublish(ctx, id)
}

// mustPublish checks that an undisturbed run has published and that its comparison
// found both halves equal (H7), or that it found nothing new.
func (w *world) mustPublish(ctx context.Context, id string) error {
	res, err := w.batch.GetRun(ctx, &duetv1.GetRunRequest{Run: id})
	if err != nil {
		return err
	}
	switch res.GetRun().GetState() {
	case duetv1.RunState_RUN_STATE_PUBLISHED:
		return w.reconciled(ctx, id)
	case duetv1.RunState_RUN_STATE_UNCHANGED:
		return nil
	}
	return fmt.Errorf("run: %v", res.GetRun())
}

func (w *world) reconciled(ctx context.Context, id string) error {
	rec, err := w.batch.GetReconciliation(ctx, &duetv1.GetReconciliationRequest{Run: id})
	if err != nil {
		return fmt.Errorf("reconciliation of %s: %w", id, err)
	}
	for _, v := range rec.GetViews() {
		if v.GetNote() != "" {
			w.trace("    not compared: %s: %s", v.GetView(), v.GetNote())
		}
		for _, d := range v.GetLargest() {
			if d.GetCause() != duetv1.Cause_CAUSE_DEFINITION && v.GetCellsDifferent() > 0 {
				return fmt.Errorf("reconciliation of %s: view %s differs: %v", id, v.GetView(), d)
			}
		}
	}
	if !rec.GetEqual() {
		return fmt.Errorf("reconciliation of %s is not equal: %s\n%v", id, rec.GetVerdict(), rec)
	}
	for _, c := range rec.GetTotals() {
		if !c.GetEqual() {
			return fmt.Errorf("reconciliation of %s: total %v", id, c)
		}
	}
	return nil
}

// noteGenerations records what each new generation must contain.
func (w *world) noteGenerations(ctx context.Context) error {
	res, err := w.batch.ListGenerations(ctx, &duetv1.ListGenerationsRequest{})
	if err != nil {
		return err
	}
	kept := map[uint64]*published{}
	for _, g := range res.GetGenerations() {
		n := g.GetNumber()
		if kept[n] = w.gens[n]; kept[n] != nil {
			continue
		}
		p := &published{cut: int64(g.GetCut()[0].GetSequence()), views: w.defs.clone().views}
		if of := w.gens[g.GetRollbackOf()]; of != nil {
			if p.views = of.views; p.cut != of.cut {
				return fmt.Errorf("generation %d is a rollback to %d but has cut %d, not %d", n, g.GetRollbackOf(), p.cut, of.cut)
			}
		}
		kept[n] = p
	}
	w.gens = kept
	return nil
}

// restart stops the node and starts another one on the same folder.
func (w *world) restart(ctx context.Context) error {
	w.stop()
	if err := w.start(ctx); err != nil {
		return err
	}
	// Views are rebuilt after the node is ready. A view that an event suspends
	// stays suspended.
	err := w.until(ctx, "every view answers", func() (bool, error) {
		res, err := w.views.ListViews(ctx, &duetv1.ListViewsRequest{})
		if err != nil {
			return false, err
		}
		for _, v := range res.GetViews() {
			if v.GetProblem() != "" && !w.defs.views[v.GetName()].raises {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return w.settle(ctx)
}

// survive restarts the node if err says that it has ended; else it returns err.
func (w *world) survive(ctx context.Context, err error) error {
	var ended errEnded
	if errors.As(err, &ended) {
		w.trace("    %v", err)
		return w.restart(ctx)
	}
	return err
}

// accepted adds events to the oracle.
func (w *world) accepted(s *stream, rows []string) error {
	for len(rows) > 0 {
		n := min(len(rows), 1000)
		text := "INSERT INTO " + s.name + " VALUES "
		for i, row := range rows[:n] {
			if i > 0 {
				text += ","
			}
			text += row
		}
		if _, err := w.oracle.Exec(text); err != nil {
			return fmt.Errorf("the model's events do not fit: %w", err)
		}
		rows = rows[n:]
	}
	return nil
}
