package torture

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"duet/internal/failpoint"
	_ "duet/internal/node" // links every failpoint
)

func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEED=%q is not a number", s)
		}
	}
	t.Logf("seed %d: run again with SEED=%d go test -tags duckdb_arrow -run '^%s$' ./internal/torture", seed, seed, t.Name())
	return seed
}

// checkAll brings the producers to rest and compares every view.
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
	for _, view := range []string{"total", "by_shop", "by_day", "by_hour", "by_id"} {
		o.check(t, c, view, token)
	}
	o.account(t, c)
}

// TestRandomKills ends the process at random moments under load.
// DUET_KILLS sets how many; 20 by default.
func TestRandomKills(t *testing.T) {
	kills := 20
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
	p := &prober{}
	probing, stop := context.WithCancel(context.Background())
	probed := make(chan struct{})
	if err := c.start(); err != nil {
		t.Fatalf("%v\n%s", err, c.tail(20))
	}
	go func() { defer close(probed); p.run(probing, c, l, t) }()
	defer func() { stop(); <-probed }()
	var longest time.Duration
	for kill := range kills {
		l.start(c, t)
		if r.IntN(3) == 0 {
			full := r.IntN(2) == 0
			go c.run(full)
		}
		c.pause(time.Duration(50+r.IntN(1200)) * time.Millisecond)
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
		if t.Failed() {
			t.Fatalf("after kill %d\n%s", kill+1, c.tail(40))
		}
	}
	t.Logf("seed %d: %d kills, %d events, %d probes, longest recovery %v, 0 differences", seed, kills, l.acked(), p.probes, longest.Round(time.Millisecond))
}

// TestKillAtEveryStep ends the process at every named step of archive commit,
// publish, switch and trim, first with the step's first hit, then later ones.
func TestKillAtEveryStep(t *testing.T) {
	seed := seedOf(t)
	c, o := newCluster(t), newOracle(t)
	l := newLoad(seed, 2)
	reached := 0
	for i, name := range failpoint.All() {
		nth := 1 + i%3
		err := c.start(failpoint.Env + "=" + name + ":" + strconv.Itoa(nth))
		if err == nil {
			l.start(c, t)
			for run := 0; run < 4 && !c.wait(0); run++ {
				c.run(run%2 == 0)
			}
			if c.wait(2 * time.Second) {
				reached++
			} else {
				t.Logf("%s:%d is not reached by archive, run, switch or trim", name, nth)
			}
			c.kill()
		} else {
			reached++
			c.kill()
		}
		if err := c.start(); err != nil {
			t.Fatalf("after %s:%d: %v\n%s", name, nth, err, c.tail(20))
		}
		if err == nil {
			l.rest()
		}
		checkAll(t, c, l, o)
		if t.Failed() {
			t.Fatalf("after %s:%d\n%s", name, nth, c.tail(40))
		}
		c.kill()
	}
	t.Logf("seed %d: %d of %d points reached, %d events, 0 differences", seed, reached, len(failpoint.All()), l.acked())
}
