package batch_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"duet/batch"
	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/scrub"
)

// flipInPlace flips one bit of a file in place, and keeps inode, size and time.
func flipInPlace(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, st.Size()/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 16
	if _, err := f.WriteAt(b, st.Size()/2); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// scrubbed scrubs an archive and returns what it found damaged.
func scrubbed(t *testing.T, a *archive.Archive) (damaged []archive.Scrubbed, files int) {
	t.Helper()
	err := a.Scrub(context.Background(), archive.Mark{}, func(f archive.Scrubbed) error {
		files++
		if f.Damage != nil {
			damaged = append(damaged, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return damaged, files
}

// A bit flips in a file that was verified: Verify trusts the file, Scrub reports
// or repairs it, and Verify then refuses it.
func TestScrubFindsWhatVerifyTrusts(t *testing.T) {
	for _, repair := range []bool{false, true} {
		ctx, dir := context.Background(), t.TempDir()
		s, err := open(dir, options{noLoop: true, world: batchtest.Config{Seed: 3}})
		if err != nil {
			t.Fatal(err)
		}
		s.mustAppend(t, 50)
		s.mustArchive(t)
		s.close()
		s = mustOpen(t, dir, options{noLoop: true, repair: repair, world: batchtest.Config{Seed: 3}})
		m := s.archive.Current()
		if err := s.archive.Verify(ctx, m.Files); err != nil {
			t.Fatal(err)
		}
		if damaged, files := scrubbed(t, s.archive); len(damaged) > 0 || files != 1+len(m.Files) {
			t.Fatalf("before: %d files, damaged %v", files, damaged)
		}
		if err := s.archive.Verify(ctx, m.Files); err != nil {
			t.Fatal(err)
		}
		victim := filepath.Join(dir, "archive", m.Files[0].Path)
		flipInPlace(t, victim)
		if err := s.archive.Verify(ctx, m.Files); err != nil {
			t.Fatalf("the test is wrong: the file is not trusted: %v", err)
		}
		damaged, _ := scrubbed(t, s.archive)
		if len(damaged) != 1 || damaged[0].Path != victim || damaged[0].Repaired != repair || !strings.Contains(damaged[0].Damage.Error(), victim) {
			t.Fatalf("repair %t: damaged %+v", repair, damaged)
		}
		if err := s.archive.Verify(ctx, m.Files[:1]); err == nil {
			t.Error("Verify still trusts the file")
		}
		if repair {
			if damaged, _ := scrubbed(t, s.archive); len(damaged) > 0 {
				t.Errorf("after the repair: %+v", damaged)
			}
			if err := s.checkArchive(); err != nil {
				t.Error(err)
			}
		}
		// A damaged link of the manifest's chain is published again.
		s.mustAppend(t, 10)
		s.mustArchive(t)
		link := filepath.Join(dir, "archive", "manifest", "000000000001.json")
		if repair { // the repair was complete
			link = filepath.Join(dir, "archive", "manifest", "0000000000"+lastTwo(s.archive.Current().Number)+".json")
		}
		flipInPlace(t, link)
		damaged, _ = scrubbed(t, s.archive)
		if len(damaged) == 0 || damaged[0].Path != link || !damaged[0].Repaired {
			t.Fatalf("a damaged manifest: %+v", damaged)
		}
		if repair {
			again := openArchive(t, archive.Config{Dir: filepath.Join(dir, "archive")})
			sameArchive(t, "after the scrub", again, s.archive)
			again.Close()
		}
	}
}

func lastTwo(n uint64) string { return string([]byte{'0' + byte(n/10), '0' + byte(n%10)}) }

// A file that cannot be looked at is reported, and the files after it are scrubbed.
func TestScrubGoesOnAfterAFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, options{noLoop: true, world: batchtest.Config{Seed: 3}})
	s.mustAppend(t, 50)
	s.mustArchive(t)
	files := s.archive.Current().Files
	first, last := filepath.Join(dir, "archive", files[0].Path), filepath.Join(dir, "archive", files[len(files)-1].Path)
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Base(first), first); err != nil { // a loop
		t.Fatal(err)
	}
	flipInPlace(t, last)
	damaged, n := scrubbed(t, s.archive)
	if n != 1+len(files) || len(damaged) != 2 || damaged[0].Path != first || damaged[1].Path != last || damaged[0].Repaired {
		t.Fatalf("%d of %d files scrubbed, damaged %+v", n, 1+len(files), damaged)
	}
}

// clock is a wall clock under the test's control. Each After reports how long it
// wants to sleep and ends when the test advances the clock.
type clock struct {
	now   chan time.Time // holds one value
	sleep chan time.Duration
	wake  chan time.Time
}

func newClock() *clock {
	c := &clock{now: make(chan time.Time, 1), sleep: make(chan time.Duration), wake: make(chan time.Time)}
	c.now <- time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return c
}

func (c *clock) Now() time.Time {
	t := <-c.now
	c.now <- t
	return t
}

func (c *clock) After(d time.Duration) <-chan time.Time {
	c.sleep <- d
	return c.wake
}

// advance ends the sleep that was announced.
func (c *clock) advance(d time.Duration) {
	t := (<-c.now).Add(d)
	c.now <- t
	c.wake <- t
}

// Once a week the scrubber reads everything, at its rate; a restart continues
// where the last process stopped; a pass that is asked for does not sleep.
func TestTheScrubberRunsWeeklyAndContinues(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, options{world: batchtest.Config{Seed: 5}})
	for range 3 {
		s.mustAppend(t, 30)
		s.mustRun(t, batch.Request{})
	}
	s.archiver.Stop()
	files := len(s.archive.Current().Files)
	cells := map[string]bool{}
	for _, v := range s.catalog.Current().Views {
		cells[s.catalog.Path(v)] = true
	}
	c := newClock()
	start := func() *scrub.Scrubber {
		x, err := scrub.New(scrub.Config{Archive: s.archive, Catalog: s.catalog, Path: filepath.Join(dir, "scrub.json"), Rate: 1000, Now: c.Now, After: c.After})
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		return x
	}
	x := start()
	// Nothing happens for a week but looks at the clock.
	for week := time.Duration(0); week < 7*24*time.Hour; {
		d := <-c.sleep
		if current, last := x.Status(); current != nil || last != nil {
			t.Fatalf("after %s: %+v, %+v", week, current, last)
		}
		week += d
		c.advance(d)
	}
	// The first files, each followed by a sleep for its bytes.
	for range 3 {
		c.advance(<-c.sleep)
	}
	d := <-c.sleep
	current, _ := x.Status()
	if current == nil || current.Number != 1 || current.Files != 4 || d <= 0 || current.TotalBytes <= current.Bytes {
		t.Fatalf("in the first pass: %+v, sleeping %s", current, d)
	}
	x.Stop()
	if len(cells) == 0 {
		t.Fatal("no cells")
	}
	var victim string
	for path := range cells {
		victim = path
	}
	flipInPlace(t, victim)
	x = start()
	seen := 4
	for {
		d := <-c.sleep
		current, last := x.Status()
		if current == nil {
			if last == nil || last.Number != 1 || last.Files < 1+files+len(cells) || len(last.Damage) != 1 || last.Damage[0].Path != victim || last.Damage[0].Repaired {
				t.Fatalf("after the first pass: %+v", last)
			}
			break
		}
		if seen++; current.Number != 1 || current.Files != seen {
			t.Fatalf("the pass did not continue: %+v, want %d files", current, seen)
		}
		c.advance(d)
	}
	// The loop sleeps until the next week; a pass that is asked for ends at once.
	if p := x.Run(); p.Number != 2 {
		t.Fatalf("asked for %+v", p)
	}
	<-c.sleep
	if _, last := x.Status(); last.Number != 2 || len(last.Damage) != 1 {
		t.Fatalf("after the pass that was asked for: %+v", last)
	}
	x.Stop()
}
