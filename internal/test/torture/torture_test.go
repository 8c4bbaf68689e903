package torture

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"duet/internal/base/failpoint"
	_ "duet/internal/node" // links every failpoint
	"duet/schemas/duetv1"
)

func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEED=%q is not a number", s)
		}
	}
	t.Logf("seed %d: run again with SEED=%d go test -tags duckdb_arrow -run '^%s$' ./internal/test/torture", seed, seed, t.Name())
	return seed
}

// checkAll compares every view and the accounts with the oracle. The producers
// must be at rest.
func checkAll(t *testing.T, c *cluster, l *load, o *oracle) {
	t.Helper()
	o.load(t, l)
	token := ""
	for _, tok := range l.tokens() {
		// Every producer's last acknowledgement must be visible.
		if _, err := c.query(newTotal(tok)); err != nil {
			t.Errorf("waiting for an acknowledged event: %v", err)
		}
		token = tok
	}
	for _, view := range viewNames {
		o.check(t, c, view, token)
	}
	o.account(t, c)
}

// TestRandomKills kills the server at random moments under load, DUET_KILLS
// times (default 20), while an operator runs, rolls back, scrubs and verifies.
func TestRandomKills(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 5
	}
	if s := os.Getenv("DUET_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("DUET_KILLS=%q is not a number", s)
		}
		kills = n
	}
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 1))
	c, o := newCluster(t), newOracle(t)
	l := newLoad(seed, 3)
	p, ops := &prober{}, newOperator(c, seed)
	probing, stop := context.WithCancel(context.Background())
	probed := make(chan struct{})
	if err := c.start(); err != nil {
		t.Fatalf("%v\n%s", err, c.tail(20))
	}
	go func() { defer close(probed); p.run(probing, c, l, t) }()
	defer func() { stop(); <-probed; ops.wg.Wait() }()
	var longest time.Duration
	for kill := range kills {
		l.start(c, t)
		ops.start(t)
		life := 50 + r.IntN(1200)
		if r.IntN(4) == 0 { // long enough for a full run to end
			life += 3000
		}
		c.pause(time.Duration(life) * time.Millisecond)
		c.kill()
		if r.IntN(4) == 0 { // and once more while it recovers
			if err := c.startAndKill(time.Duration(r.IntN(400)) * time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := c.start(); err != nil {
			t.Fatalf("kill %d: %v\n%s", kill+1, err, c.tail(20))
		}
		longest = max(longest, time.Since(began))
		l.rest()
		checkAll(t, c, l, o)
		o.verify(t, c, viewNames[r.IntN(len(viewNames))])
		if t.Failed() {
			t.Fatalf("after kill %d\n%s", kill+1, c.tail(40))
		}
	}
	stop()
	<-probed // the prober owns its count until it ends
	t.Logf("seed %d: %d kills, %d events, %d probes, longest recovery %v, 0 differences; %v", seed, kills, l.acked(), p.probes, longest.Round(time.Millisecond), ops)
}

// TestKillAtEveryStep kills the server at every named step of archive commit,
// publish, switch, clean and trim, and of the creation of a log. A step that is
// never reached fails the test, because it was not tested.
func TestKillAtEveryStep(t *testing.T) {
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 2))
	c, o := newCluster(t), newOracle(t)
	l := newLoad(seed, 3)
	l.gap = 20 * time.Millisecond // steps are what this is about, not load
	todo := failpoint.All()
	if testing.Short() {
		t.Logf("-short: one round over %d steps, reached or not", len(todo)/3)
	}
	r.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	reached := 0
	// Some steps need many files or a full log first: steps that were not reached
	// are tried again.
	rounds := 3
	if testing.Short() {
		todo, rounds = todo[:len(todo)/3], 1
	}
	for round := 0; round < rounds && len(todo) > 0; round++ {
		var missed []string
		for _, name := range todo {
			nth := 1
			if round == 0 && r.IntN(3) == 0 {
				nth += r.IntN(3)
			}
			switch {
			case strings.HasPrefix(name, "eventlog.begin."):
				killAtBegin(t, seed, name)
				reached++
			case killAt(t, c, l, o, name+":"+strconv.Itoa(nth)):
				reached++
			default:
				missed = append(missed, name)
			}
		}
		todo = missed
	}
	if len(todo) > 0 && !testing.Short() {
		t.Errorf("never reached: %s", strings.Join(todo, ", "))
	}
	t.Logf("seed %d: %d of %d steps reached, %d events, 0 differences", seed, reached, len(failpoint.All()), l.acked())
}

// killAt runs the server until it dies at a step, restarts it, and compares. It
// reports whether the step was reached.
func killAt(t *testing.T, c *cluster, l *load, o *oracle, point string) bool {
	t.Helper()
	reached := true
	if err := c.start(failpoint.Env + "=" + point); err == nil {
		// The steps of a recompute run in the batch child: the child dies, the run
		// fails, and the server keeps the old generation.
		child := strings.HasPrefix(point, "recompute.")
		failed := false
		l.start(c, t)
		for run := 0; run < 3 && !failed && !c.wait(0); run++ {
			got := c.run(run%2 == 0)
			failed = child && got.GetState() == duetv1.RunState_RUN_STATE_FAILED
		}
		if reached = failed; !child {
			reached = c.wait(300 * time.Millisecond)
		}
	}
	c.kill()
	if err := c.start(); err != nil {
		t.Fatalf("after %s: %v\n%s", point, err, c.tail(20))
	}
	l.rest()
	checkAll(t, c, l, o)
	if t.Failed() {
		t.Fatalf("after %s\n%s", point, c.tail(40))
	}
	c.kill()
	return reached
}

// killAtBegin does the same at a step that only a new data folder reaches.
func killAtBegin(t *testing.T, seed uint64, point string) {
	t.Helper()
	c, o := newCluster(t), newOracle(t)
	l := newLoad(seed, 1)
	if err := c.start(failpoint.Env + "=" + point); err == nil {
		t.Errorf("%s is not reached by a new log", point)
	}
	c.kill()
	if err := c.start(); err != nil {
		t.Fatalf("after %s: %v\n%s", point, err, c.tail(20))
	}
	l.start(c, t)
	c.pause(100 * time.Millisecond)
	l.rest()
	checkAll(t, c, l, o)
}
