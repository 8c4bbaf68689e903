package eventlog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"duet/internal/base/failpoint"
	"duet/schemas/event"
)

// eachRecord calls f for each record of each envelope, in order.
func eachRecord(l *Log, f func(producer string, number uint64, record []byte)) error {
	r, err := l.Read(context.Background(), l.First()-1)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		m, ok, err := r.TryNext()
		if err != nil || !ok {
			return err
		}
		if m.Control != "" {
			continue
		}
		env, err := event.ParseEnvelope(m.Data)
		if err != nil {
			return err
		}
		i := 0
		for _, run := range env.Runs {
			for k := range uint64(run.Count) {
				f(run.Producer, run.First+k, env.Record(i))
				i++
			}
		}
	}
}

func startChild(t *testing.T, mode, dir string, env ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe, "-test.run=^$")
	cmd.Env = append(append(os.Environ(), childEnv+"="+mode+" "+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	return cmd, out
}

// killAfter runs the child until it has acknowledged n requests, kills it, and
// returns the last number acknowledged to each producer.
func killAfter(t *testing.T, mode, dir string, n int, env ...string) map[string]uint64 {
	t.Helper()
	cmd, out := startChild(t, mode, dir, env...)
	acked := map[string]uint64{}
	lines := 0
	for in := bufio.NewScanner(out); in.Scan(); {
		name, number, _ := strings.Cut(in.Text(), " ")
		if name == "error" {
			t.Errorf("child: %s", number)
			continue
		}
		v, err := strconv.ParseUint(number, 10, 64)
		must(t, err)
		acked[name] = v
		if lines++; lines == n {
			must(t, cmd.Process.Kill()) // SIGKILL
		}
	}
	_ = cmd.Wait() // it was killed
	return acked
}

// verifyAcked checks L1: what was acknowledged is there, each number once, in
// order, with its own content.
func verifyAcked(t *testing.T, cfg Config, acked map[string]uint64) {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	must(t, err)
	defer l.Close()
	last := map[string]uint64{}
	must(t, eachRecord(l, func(producer string, number uint64, record []byte) {
		if number != last[producer]+1 {
			t.Fatalf("%s: number %d follows %d", producer, number, last[producer])
		}
		if string(record) != string(childRecord(producer, number)) {
			t.Fatalf("%s %d holds %q", producer, number, record)
		}
		last[producer] = number
	}))
	for name, n := range acked {
		if last[name] < n {
			t.Fatalf("%s: number %d was acknowledged, but the log ends at %d", name, n, last[name])
		}
	}
}

func TestKillsLoseNothingThatWasAcknowledged(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	cfg := config(t, 256<<20)
	acked := map[string]uint64{}
	for range 8 {
		for name, n := range killAfter(t, "publish", cfg.Dir, 1+rng.IntN(2000)) {
			acked[name] = n
		}
		verifyAcked(t, cfg, acked)
	}
}

func TestKillsAtEachStepLoseNothing(t *testing.T) {
	for _, point := range failpoint.All() {
		if !strings.HasPrefix(point, "eventlog.") || strings.HasPrefix(point, "eventlog.trim.") {
			continue
		}
		for _, nth := range []int{1, 40} {
			if nth > 1 && strings.HasPrefix(point, "eventlog.begin.") {
				continue
			}
			cfg := config(t, 256<<20)
			acked := killAfter(t, "publish", cfg.Dir, 1<<30, fmt.Sprintf("%s=%s:%d", failpoint.Env, point, nth))
			if nth > 1 && len(acked) == 0 {
				t.Errorf("%s:%d: nothing was acknowledged", point, nth)
			}
			verifyAcked(t, cfg, acked)
			for name, n := range killAfter(t, "publish", cfg.Dir, 50) { // and it goes on
				acked[name] = n
			}
			verifyAcked(t, cfg, acked)
		}
	}
}

func TestAFullDiskRefusesAndHeals(t *testing.T) {
	cmd, out := startChild(t, "disk", t.TempDir())
	b, err := io.ReadAll(out)
	must(t, err)
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(string(b), "done ") {
		t.Fatalf("%v: %s", err, b)
	}
}

func TestKillsWhileTrimmingKeepTheLogWhole(t *testing.T) {
	for _, env := range [][]string{
		nil, nil, nil, // at a random moment
		{failpoint.Env + "=eventlog.trim.marked:1"}, {failpoint.Env + "=eventlog.trim.marked:20"},
		{failpoint.Env + "=eventlog.trim.dropped:1"}, {failpoint.Env + "=eventlog.trim.dropped:7"},
	} {
		cfg := config(t, smallBlocks)
		n := 1 << 30
		if env == nil {
			n = 100 + rand.IntN(200)
		}
		for range 2 {
			acked := killAfter(t, "trim", cfg.Dir, n, env...)
			l, err := Open(context.Background(), cfg)
			must(t, err)
			if l.Last().Sequence() < acked["last"] {
				t.Errorf("%v: the log ends at %s, but %d was acknowledged", env, l.Last(), acked["last"])
			}
			if all, err := readAll(t, l, l.First()-1); err != nil || len(all) != int(l.Last()-l.First())+1 {
				t.Errorf("%v: %d messages of %s to %s: %v", env, len(all), l.First(), l.Last(), err)
			}
			must(t, l.Close())
		}
	}
}
