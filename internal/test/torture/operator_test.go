package torture

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
	"duet/serving/reason"
)

// operator runs batch operations while events arrive and the server is killed:
// incremental and full runs, rollbacks to random kept generations, pauses, scrubs,
// and recomputations by verify. An operation that the server survives must
// succeed.
type operator struct {
	c  *cluster
	r  *rand.Rand // of the goroutine of start
	wg sync.WaitGroup

	mu    sync.Mutex
	count map[string]int // operations by kind and outcome
}

func newOperator(c *cluster, seed uint64) *operator {
	return &operator{c: c, r: rand.New(rand.NewPCG(seed, 3)), count: map[string]int{}}
}

// start begins operations on the running server. They end when it dies.
func (o *operator) start(t *testing.T) {
	o.wg.Wait() // the last server's operations have seen its end
	life := o.c.life()
	o.wg.Go(func() {
		for o.c.life() == life && o.c.pause(time.Duration(o.r.IntN(200))*time.Millisecond) {
			kind, err := o.one()
			outcome := "done"
			switch {
			case o.c.life() != life || err != nil && status.Code(err) == codes.Unavailable:
				outcome = "killed"
			case err != nil:
				t.Errorf("%s: %v", kind, err)
				return
			}
			o.mu.Lock()
			o.count[kind+" "+outcome]++
			o.mu.Unlock()
		}
	})
}

// one runs a random operation.
func (o *operator) one() (kind string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	batch := duetv1.NewBatchServiceClient(o.c.conn)
	switch n := o.r.IntN(12); {
	case n < 2:
		return "incremental run", o.run(ctx, batch, false)
	case n < 5:
		return "full run", o.run(ctx, batch, true)
	case n < 8:
		return "rollback", o.rollback(ctx, batch)
	case n < 9:
		view := viewNames[o.r.IntN(len(viewNames))]
		return "verify", o.verify(ctx, view)
	case n < 11:
		return "scrub", o.scrub(ctx)
	default:
		_, err := batch.Pause(ctx, &duetv1.PauseRequest{Reason: "torture"})
		return "pause", err
	}
}

func (o *operator) run(ctx context.Context, batch duetv1.BatchServiceClient, full bool) error {
	started, err := batch.StartRun(ctx, &duetv1.StartRunRequest{Full: full})
	if err != nil {
		return queued(err)
	}
	return o.published(ctx, batch, started.GetRun().GetId())
}

// rollback returns to a random kept generation; usually the schedule goes on
// after that.
func (o *operator) rollback(ctx context.Context, batch duetv1.BatchServiceClient) error {
	kept, err := batch.ListGenerations(ctx, &duetv1.ListGenerationsRequest{})
	if err != nil || len(kept.GetGenerations()) == 0 {
		return err
	}
	to := kept.GetGenerations()[o.r.IntN(len(kept.GetGenerations()))].GetNumber()
	resume := o.r.IntN(4) > 0
	started, err := batch.Rollback(ctx, &duetv1.RollbackRequest{Generation: to, Reason: "torture"})
	if status.Code(err) == codes.NotFound { // cleaned since it was listed
		return nil
	}
	if err != nil {
		return queued(err)
	}
	if err := o.published(ctx, batch, started.GetRun().GetId()); err != nil {
		return fmt.Errorf("to generation %d: %w", to, err)
	}
	if resume {
		_, err = batch.Resume(ctx, &duetv1.ResumeRequest{})
	}
	return err
}

// queued drops the error of a run that is refused because another one is queued.
func queued(err error) error {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == string(reason.RunQueued) {
			return nil
		}
	}
	return err
}

// published waits for the end of a run. Unless the server died meanwhile, the run
// must have published: a held one would mean that the halves differ, and nothing
// makes a run fail here.
func (o *operator) published(ctx context.Context, batch duetv1.BatchServiceClient, id string) error {
	life := o.c.life()
	for {
		got, err := batch.GetRun(ctx, &duetv1.GetRunRequest{Run: id})
		if err != nil {
			return err
		}
		switch run := got.GetRun(); run.GetState() {
		case duetv1.RunState_RUN_STATE_QUEUED, duetv1.RunState_RUN_STATE_RUNNING:
		case duetv1.RunState_RUN_STATE_PUBLISHED, duetv1.RunState_RUN_STATE_UNCHANGED:
			return nil
		default:
			if o.c.life() != life {
				return nil // it was interrupted
			}
			return fmt.Errorf("run %s ended as %v: %s", id, run.GetState(), run.GetProblem())
		}
		if !o.c.pause(10 * time.Millisecond) {
			return nil
		}
	}
}

// scrub has the server verify every stored file; no file may be damaged.
func (o *operator) scrub(ctx context.Context) error {
	operate := duetv1.NewOperateServiceClient(o.c.conn)
	started, err := operate.StartScrub(ctx, &duetv1.StartScrubRequest{})
	if err != nil {
		return err
	}
	for {
		got, err := operate.GetScrub(ctx, &duetv1.GetScrubRequest{})
		if err != nil {
			return err
		}
		if last := got.GetLast(); last.GetNumber() >= started.GetScrub().GetNumber() {
			if len(last.GetDamage()) > 0 {
				return fmt.Errorf("the files are damaged: %v", last.GetDamage())
			}
			return nil
		}
		if !o.c.pause(10 * time.Millisecond) {
			return nil
		}
	}
}

// verify has the server recompute a view with plain DuckDB.
func (o *operator) verify(ctx context.Context, view string) error {
	answer, err := duetv1.NewViewServiceClient(o.c.conn).Verify(ctx, &duetv1.VerifyRequest{View: view})
	if err == nil && !answer.GetEqual() {
		err = fmt.Errorf("view %s: %d of %d groups differ: %v", view, answer.GetGroupsDifferent(), answer.GetGroups(), answer.GetDifferences())
	}
	return err
}

// String returns how often each operation was done, and killed.
func (o *operator) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(o.count)) {
		parts = append(parts, fmt.Sprintf("%d %s", o.count[kind], kind))
	}
	return strings.Join(parts, ", ")
}
