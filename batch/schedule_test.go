package batch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata" // not every machine has a database of zones

	"duet/internal/base/durable"
)

func mustParse(t *testing.T, text string) Schedule {
	t.Helper()
	s, err := ParseSchedule(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseScheduleSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"TZ=UTC":                        "schedules are in UTC: leave the time zone out", // it panics in the library
		"CRON_TZ=Europe/London * * * *": "schedules are in UTC",
		"15 3 * *":                      "expected exactly 5 fields",
		"61 3 * * *":                    "above maximum",
		"0 0 30 2 *":                    "is never due",
		"@sometimes":                    "write five fields",
	} {
		if _, err := ParseSchedule(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"", "15 3 * * *", "@every 1m", "@daily", "  */5 * * * * "} {
		s := mustParse(t, text)
		if text == "" && (s.String() != "never" || !s.Next(time.Now()).IsZero()) {
			t.Errorf("%q is %s", text, s)
		}
	}
}

// A daily schedule is due once each UTC day in every zone, summer time or not.
func TestADailyScheduleIsDueOncePerUTCDayInEveryZone(t *testing.T) {
	daily := mustParse(t, "30 2 * * *") // the hour that summer time skips and repeats
	for _, name := range []string{"Europe/London", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca", "Pacific/Apia"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		last := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		seen := map[string]int{}
		for now := last.In(zone); now.Before(last.AddDate(1, 0, 0)) && len(seen) < 365; now = now.Add(17 * time.Minute) {
			if tick, missed, ok := daily.due(last, now); ok {
				if missed != 0 || tick.UTC().Hour() != 2 || tick.UTC().Minute() != 30 {
					t.Fatalf("%s: tick %s, %d missed", name, tick, missed)
				}
				seen[tick.UTC().Format(time.DateOnly)]++
				last = tick
			}
		}
		for day, n := range seen {
			if n != 1 {
				t.Errorf("%s: due %d times on %s", name, n, day)
			}
		}
		if len(seen) < 364 {
			t.Errorf("%s: due on %d days", name, len(seen))
		}
	}
}

func TestDueCountsMissedTicksOnce(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)
	for _, c := range []struct {
		text   string
		after  time.Duration
		due    bool
		tick   time.Duration
		missed int
	}{
		{"@every 1m", 59 * time.Second, false, 0, 0},
		{"@every 1m", time.Minute, true, time.Minute, 0},
		{"@every 1m", 10*time.Minute + time.Second, true, 10 * time.Minute, 9},
		{"* * * * *", 29 * time.Second, false, 0, 0},
		{"* * * * *", 30 * time.Second, true, 30 * time.Second, 0},
		{"* * * * *", 5 * time.Minute, true, 4*time.Minute + 30*time.Second, 4},
		{"@every 1m", -time.Hour, false, 0, 0},
		{"", time.Hour, false, 0, 0},
	} {
		tick, missed, ok := mustParse(t, c.text).due(start, start.Add(c.after))
		if ok != c.due || missed != c.missed || ok && !tick.Equal(start.Add(c.tick)) {
			t.Errorf("%q after %s: due %t at %s, %d missed; want %+v", c.text, c.after, ok, tick, missed, c)
		}
	}
	if _, missed, ok := mustParse(t, "* * * * *").due(start.AddDate(-20, 0, 0), start); !ok || missed > 366*24*60 {
		t.Errorf("after 20 years: %t, %d missed", ok, missed)
	}
}

// bench is a runner whose runs take as long as the test says and do nothing, in
// a bubble of time whose wall clock can be set.
type bench struct {
	*Runner
	offset time.Duration
	takes  time.Duration
	runs   []Run
}

func newBench(t *testing.T, dir string, incremental, full string, takes time.Duration) *bench {
	t.Helper()
	b := &bench{takes: takes}
	now := func() time.Time { return time.Now().Add(b.offset) }
	h, state, _, err := openHistory(durable.OS, dir, now())
	if err != nil {
		t.Fatal(err)
	}
	b.Runner = &Runner{
		cfg:     Config{Incremental: mustParse(t, incremental), Full: mustParse(t, full), Now: now, Files: durable.OS},
		history: h, sched: state, changed: make(chan struct{}), work: make(chan struct{}, 1), wake: make(chan struct{}, 1), started: true,
	}
	return b
}

// live lets the bench run for a time.
func (b *bench) live(d time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { b.follow(ctx); done <- struct{}{} }()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			select {
			case <-b.work:
			case <-ctx.Done():
				return
			}
			timer := time.NewTimer(b.takes)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			b.mu.Lock()
			b.runs = append(b.runs, b.finish(Published, ""))
			b.mu.Unlock()
		}
	}()
	<-time.After(d) // on the bubble's clock
	cancel()
	<-done
	<-done
}

func TestATickThatMeetsARunIsSkippedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, t.TempDir(), "@every 1m", "", 10*time.Minute) // a job ten times too slow
		b.live(time.Hour + 30*time.Second)
		skipped := 0
		for _, run := range b.runs {
			skipped += run.Skipped
			if run.Trigger != Scheduled || run.Kind != Incremental || run.Missed != 0 {
				t.Errorf("run %+v", run)
			}
		}
		// Started at minutes 1, 12, 23, 34, 45 (each tick at a run's end meets it or not by order) and so on.
		if len(b.runs) < 5 || len(b.runs) > 6 || len(b.runs)+skipped+runningSkips(b) < 59 {
			t.Errorf("%d runs, %d ticks skipped", len(b.runs), skipped)
		}
	})
}

func runningSkips(b *bench) int {
	if b.running == nil {
		return 0
	}
	return b.running.Skipped + 1
}

func TestMissedRunsAreCaughtUpOnceAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := newBench(t, dir, "@every 1m", "0 3 * * *", time.Second)
		b.live(5*time.Minute + 30*time.Second)
		if len(b.runs) != 5 {
			t.Fatalf("%d runs in 5 minutes", len(b.runs))
		}
		<-time.After(30 * time.Hour)
		b = newBench(t, dir, "@every 1m", "0 3 * * *", time.Second)
		b.live(20 * time.Second)
		// The full run that was missed stands for the incremental ones, which met it.
		if len(b.runs) != 1 || b.runs[0].Kind != Full || b.runs[0].Trigger != CatchUp || b.runs[0].Skipped != 1 {
			t.Fatalf("caught up with %+v", b.runs)
		}
		b = newBench(t, dir, "@every 1m", "0 3 * * *", time.Second)
		b.live(10 * time.Second)
		if len(b.runs) != 0 {
			t.Fatalf("caught up twice: %+v", b.runs)
		}
	})
}

func TestPauseHoldsAcrossRestartsAndIsNotCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := newBench(t, dir, "@every 1m", "", time.Second)
		if err := b.Pause("stock taking"); err != nil {
			t.Fatal(err)
		}
		b.live(10 * time.Minute)
		b = newBench(t, dir, "@every 1m", "", time.Second)
		b.live(10 * time.Minute)
		if info := b.Schedule(); len(b.runs) != 0 || !info.Paused || info.Reason != "stock taking" || !info.NextIncremental.IsZero() {
			t.Fatalf("%d runs, schedule %+v", len(b.runs), info)
		}
		if err := b.Resume(); err != nil {
			t.Fatal(err)
		}
		b.live(3*time.Minute + 30*time.Second)
		if len(b.runs) != 3 || b.runs[0].Trigger != Scheduled {
			t.Fatalf("runs %+v", b.runs)
		}
	})
}

// The wall clock is set an hour back or forth: a clock time is due once, an interval
// goes on.
func TestASetClockNeitherSkipsNorDoubles(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, t.TempDir(), "@every 10m", "30 0 * * *", time.Second)
				b.live(35 * time.Minute) // 00:00 to 00:35
				b.offset += step
				b.live(100 * time.Minute)
				full, incremental := 0, 0
				for _, run := range b.runs {
					if run.Kind == Full {
						full++
					} else {
						incremental++
					}
				}
				if full != 1 {
					t.Errorf("the daily run came %d times", full)
				}
				if incremental < 11 || incremental > 14 { // 135 minutes; a tick met the full run, an interval began anew
					t.Errorf("the interval came %d times", incremental)
				}
			})
		})
	}
}

// With random schedules, restarts, slow runs and clock steps, two runs never overlap.
func TestRandomSchedulesNeverOverlap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("DUET_SEED"); v != "" {
		fmt.Sscan(v, &seed)
	}
	t.Logf("seed %d (repeat with DUET_SEED=%d)", seed, seed)
	rng := rand.New(rand.NewPCG(seed, 5))
	specs := []string{"@every 1m", "@every 7m", "* * * * *", "*/5 * * * *", "15 * * * *", "0 0 * * *"}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for range 8 {
			b := newBench(t, dir, specs[rng.IntN(3)], specs[3+rng.IntN(3)], time.Duration(rng.IntN(1000))*time.Second)
			b.offset = time.Duration(rng.IntN(5)-2) * 30 * time.Minute
			b.live(time.Duration(rng.IntN(180)) * time.Minute)
			for i, run := range b.runs {
				if i > 0 && run.Queued.Before(b.runs[i-1].Finished) {
					t.Fatalf("run %+v began before %+v had ended", run, b.runs[i-1])
				}
			}
			<-time.After(time.Duration(rng.IntN(7200)) * time.Second)
		}
	})
}
