package batch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/catalog"
	"duet/batch/recompute"
	"duet/internal/base/durable"
	"duet/internal/base/failpoint"
)

// role makes the test binary act as another program: the recompute child, or a
// system that a crash test kills.
const role = "DUET_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "recompute":
		os.Exit(recompute.Main(os.Args[len(os.Args)-1], os.Stdin, os.Stdout))
	case "stopped": // a child that hangs when it has computed
		failpoint.On("recompute.computed", 1, func() error { return syscall.Kill(os.Getpid(), syscall.SIGSTOP) })
		os.Exit(recompute.Main(os.Args[len(os.Args)-1], os.Stdin, os.Stdout))
	case "story":
		os.Exit(storyMain())
	case "":
		goleak.VerifyTestMain(m)
	default:
		panic("unknown " + role)
	}
}

// play is a command that runs the test binary in a role.
func play(as string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), role+"="+as), env...)
	return cmd
}

// seedOf returns a random seed, or DUET_SEED to repeat a run.
func seedOf(t testing.TB) uint64 {
	s := uint64(time.Now().UnixNano())
	if v := os.Getenv("DUET_SEED"); v != "" {
		fmt.Sscan(v, &s)
	}
	t.Logf("seed %d (repeat with DUET_SEED=%d)", s, s)
	return s
}

// options of a system under test.
type options struct {
	world   batchtest.Config
	archive archive.Config
	keep    catalog.Keep
	runner  batch.Config
	noLoop  bool // the archiver is not started
	repair  bool
	files   *durable.Files
}

// system is a world and its batch half.
type system struct {
	world    *batchtest.World
	archive  *archive.Archive
	archiver *archive.Archiver
	catalog  *catalog.Catalog
	runner   *batch.Runner
	spare    *batchtest.World // repairs; nil as a rule

	mu     sync.Mutex
	alarms []batch.Alarm
	fatal  error
	failed []error // of the archiver
}

// open opens or recovers a system in dir.
func open(dir string, o options) (_ *system, err error) {
	s := &system{}
	defer func() {
		if err != nil && s.spare != nil {
			s.spare.Close()
		}
	}()
	o.archive.Dir, o.archive.Incarnation, o.archive.Files = filepath.Join(dir, "archive"), batchtest.Incarnation, o.files
	o.archive.EventTime = map[string]string{batchtest.Stream: "sold_at"}
	o.world.Dir = dir
	if s.catalog, err = catalog.Open(catalog.Config{Dir: filepath.Join(dir, "generations"), Files: o.files, Keep: o.keep, Now: o.runner.Now}); err != nil {
		return nil, err
	}
	if o.repair {
		spare, err := batchtest.Open(o.world, 0, nil, nil)
		if err != nil {
			return nil, err
		}
		o.archive.Repairer, s.spare = spare, spare
	}
	if s.archive, err = archive.Open(context.Background(), o.archive); err != nil {
		return nil, err
	}
	o.world.Archive = s.archive
	if s.world, err = batchtest.Open(o.world, s.archive.Through(), s.catalog.Current(), s.catalog); err != nil {
		s.archive.Close()
		return nil, err
	}
	s.archiver = archive.NewArchiver(s.archive, s.world, archive.Hooks{Failed: func(step string, err error, wait time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failed = append(s.failed, fmt.Errorf("%s: %w", step, err))
	}})
	if !o.noLoop {
		if err := s.archiver.Start(context.Background()); err != nil {
			return nil, err
		}
	}
	c := o.runner
	c.Dir, c.Archive, c.Catalog, c.Live, c.Archiver, c.Files = dir, s.archive, s.catalog, s.world, s.archiver, o.files
	if c.Views == nil {
		c.Views = batchtest.Views
	}
	if c.Child == nil {
		c.Child = func() *exec.Cmd { return play("recompute") }
	}
	c.Hooks.Alarm = func(a batch.Alarm) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alarms = append(s.alarms, a)
	}
	c.Fatal = func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fatal = err
	}
	if s.runner, err = batch.NewRunner(c); err != nil {
		s.archiver.Stop()
		s.archive.Close()
		s.world.Close()
		return nil, err
	}
	if err := s.runner.Start(context.Background()); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *system) close() {
	s.runner.Stop()
	s.archiver.Stop()
	s.archive.Close()
	s.world.Close()
	if s.spare != nil {
		s.spare.Close()
	}
}

// mustOpen opens a system that the end of the test closes.
func mustOpen(t testing.TB, dir string, o options) *system {
	t.Helper()
	s, err := open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// run requests a run and waits for its end.
func (s *system) run(req batch.Request) (batch.Run, error) {
	run, err := s.runner.Run(req)
	if err != nil {
		return run, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return s.runner.Wait(ctx, run.ID)
}

// mustRun requests a run, which must publish.
func (s *system) mustRun(t testing.TB, req batch.Request) batch.Run {
	t.Helper()
	run, err := s.run(req)
	if err != nil {
		t.Fatal(err)
	}
	if run.State != batch.Published {
		t.Fatalf("run %+v\nalarms %v\narchiver %v", run, s.alarms, s.failed)
	}
	return run
}

func (s *system) mustAppend(t testing.TB, n int) {
	t.Helper()
	if err := s.world.Append(n); err != nil {
		t.Fatal(err)
	}
}

// mustCheck compares every answer with plain SQL over all events.
func (s *system) mustCheck(t testing.TB, suspended ...string) {
	t.Helper()
	if err := s.world.Check(suspended...); err != nil {
		t.Fatal(err)
	}
}

// hasAlarm reports whether an alarm of the kind was raised.
func (s *system) hasAlarm(kind batch.AlarmKind) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.alarms {
		if a.Kind == kind {
			return true
		}
	}
	return false
}

var errTest = errors.New("made to fail")
