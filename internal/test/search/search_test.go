package search

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"duet/batch/recompute"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(recompute.Main(os.Args[len(os.Args)-1], os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// Defaults of DUET_SEARCH_SEEDS, DUET_SEARCH_ACTIONS and DUET_SEARCH_SHRINK.
// DUET_SEARCH_SEED runs one seed.
const (
	defaultSeeds   = 4
	defaultActions = 20
	defaultShrink  = 8
	// None of the default seeds starts after this time, for slow machines.
	defaultTime = 15 * time.Second
)

func setting(t *testing.T, name string, def uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, text)
	}
	return n
}

func TestRandomActionsAgainstPlainDuckDB(t *testing.T) {
	seeds, first := setting(t, "DUET_SEARCH_SEEDS", defaultSeeds), uint64(time.Now().UnixNano())%1_000_000_000
	if seed := setting(t, "DUET_SEARCH_SEED", 0); seed != 0 {
		first, seeds = seed, setting(t, "DUET_SEARCH_SEEDS", 1)
	}
	n := int(setting(t, "DUET_SEARCH_ACTIONS", defaultActions))
	began, hasty := time.Now(), os.Getenv("DUET_SEARCH_SEEDS") == ""
	t.Logf("%d seeds from %d, %d actions each", seeds, first, n)
	for seed := first; seed < first+seeds; seed++ {
		if hasty && seed > first && time.Since(began) > defaultTime {
			t.Logf("time is up after %d seeds", seed-first)
			break
		}
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { try(t, seed, n) })
	}
}

// try runs a seed. If it fails, try looks for fewer actions that still fail.
func try(t *testing.T, seed uint64, n int) {
	actions := newActions(rand.New(rand.NewPCG(seed, 2)), n)
	began := time.Now()
	sc := &scenario{t: t, seed: seed}
	err := sc.run(actions)
	t.Logf("%d actions, %d events, %d answers to readers, %s", len(actions), sc.events, sc.asked, time.Since(began).Round(10*time.Millisecond))
	if err == nil {
		if os.Getenv("DUET_SEARCH_LOG") != "" {
			t.Log(strings.Join(sc.trace, "\n"))
		}
		return
	}
	trace, left := sc.trace, actions[:0]
	if sc.done > 0 {
		left = sc.shrink(actions[:sc.done], int(setting(t, "DUET_SEARCH_SHRINK", defaultShrink)))
	}
	var short []string
	for _, a := range left {
		short = append(short, a.String())
	}
	t.Errorf("%v\n\nrun it again with:\n  DUET_SEARCH_SEED=%d DUET_SEARCH_ACTIONS=%d go test -tags duckdb_arrow ./internal/test/search/ -v\n\n%d actions that failed too: %s\n\nwhat was done:\n%s",
		err, seed, n, len(short), strings.Join(short, " "), strings.Join(trace, "\n"))
}

// scenario runs actions on a seed's project.
type scenario struct {
	t             *testing.T
	seed          uint64
	trace         []string
	done          int // actions begun
	events, asked int
}

func (sc *scenario) run(actions []action) (err error) {
	sc.trace, sc.done = nil, 0
	note := func(format string, args ...any) { sc.trace = append(sc.trace, fmt.Sprintf(format, args...)) }
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w, err := newWorld(sc.t, rand.New(rand.NewPCG(sc.seed, 1)), note)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.start(ctx); err != nil {
		return err
	}
	for _, a := range actions {
		sc.done++
		note("  %s", a)
		began := time.Now()
		if err := w.do(ctx, a); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
		note("    %s", time.Since(began).Round(time.Millisecond))
	}
	sc.events, sc.asked = w.events, w.readers.asked
	return nil
}

// shrink drops halves, then quarters and so on of the actions while the rest
// still fails. It keeps the last action, which detected the failure.
func (sc *scenario) shrink(actions []action, tries int) []action {
	for size := (len(actions) + 1) / 2; size > 0 && tries > 0; size /= 2 {
		for from := 0; from+size < len(actions) && tries > 0; {
			tries--
			fewer := append(append([]action{}, actions[:from]...), actions[from+size:]...)
			if sc.run(fewer) != nil {
				actions = fewer[:sc.done]
			} else {
				from += size
			}
		}
	}
	return actions
}
