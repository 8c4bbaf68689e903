package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/schemas"
)

// damage flips a bit of, or cuts, one block file.
func damage(t *testing.T, rng *rand.Rand, dir string) string {
	t.Helper()
	files := blockFiles(t, dir)
	path := files[rng.IntN(len(files))]
	b, err := os.ReadFile(path)
	must(t, err)
	if len(b) == 0 {
		return path + " is empty"
	}
	at := rng.IntN(len(b))
	if rng.IntN(4) == 0 {
		must(t, os.Truncate(path, int64(at)))
		return fmt.Sprintf("%s cut at %d of %d", filepath.Base(path), at, len(b))
	}
	bit := rng.IntN(8)
	b[at] ^= 1 << bit
	must(t, os.WriteFile(path, b, 0o600))
	return fmt.Sprintf("bit %d of byte %d of %d in %s flipped", bit, at, len(b), filepath.Base(path))
}

// isDamage reports whether an error is one of those that name damage.
func isDamage(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrBehind) || errors.Is(err, ErrDiffers) || errors.Is(err, ErrMissing)
}

// A damaged log is refused, or reading it ends in an error; what is read before
// that is what was written. The log has or lacks the server's index, and ended
// cleanly or by a kill (the high-water mark then lags behind).
func TestDamageIsNeverReadAsContent(t *testing.T) {
	const events, seeds, marked = 90, 60, 60
	cfg := filled(t, events)
	lagging := copyDir(t, cfg.Dir)
	must(t, writeSealed(highPath(lagging), highFileAt(t, cfg, marked)))
	unseen := 0
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 7))
		from := cfg.Dir
		if rng.IntN(2) == 0 {
			from = lagging
		}
		broken := cfg
		broken.Dir = copyDir(t, from)
		if rng.IntN(2) == 0 {
			must(t, os.Remove(filepath.Join(blockDir(broken.Dir), "index.db")))
		}
		what := fmt.Sprintf("seed %d: %s", seed, damage(t, rng, broken.Dir))
		for open := range 2 { // a second open must not be milder
			n, err := readDamaged(t, broken, what)
			switch {
			case err != nil && !isDamage(err):
				t.Fatalf("%s: not an error that names damage: %v", what, err)
			case err == nil && n != events+1:
				// While the mark lags, a file that was cut behind it looks like one that a
				// kill tore before the missing messages were acknowledged.
				cut := strings.Contains(what, " cut at ") && n >= marked
				if from != lagging || !cut {
					t.Fatalf("%s: open %d: %d of %d messages and no error", what, open, n, events+1)
				}
				unseen++
			}
		}
		must(t, os.RemoveAll(broken.Dir))
	}
	t.Logf("%d cuts of %d seeds look like a kill's", unseen, seeds)
}

// A flipped bit in a record's sequence must not reach the server, which would
// allocate memory for all the sequences between.
func TestAFlippedSequenceIsRefusedBeforeItCostsMemory(t *testing.T) {
	cfg := filled(t, 90)
	for _, name := range []string{"1.blk", "2.blk", "3.blk", "4.blk"} {
		for _, last := range []bool{false, true} {
			broken := cfg
			broken.Dir = copyDir(t, cfg.Dir)
			path := filepath.Join(blockDir(broken.Dir), name)
			b, err := os.ReadFile(path)
			must(t, err)
			offset := 0
			for next := offset; last && next < len(b); next += int(binary.LittleEndian.Uint32(b[next:]) &^ headerBit) {
				offset = next
			}
			b[offset+4+5] ^= 1 // 2^40 later
			must(t, os.WriteFile(path, b, 0o600))
			for range 2 {
				if n, err := readDamaged(t, broken, name); !isDamage(err) {
					t.Fatalf("%s, last record %v: %d messages, %v", name, last, n, err)
				}
			}
		}
	}
}

func highFileAt(t *testing.T, cfg Config, seq uint64) highFile {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	must(t, err)
	m, err := l.eng.message(context.Background(), l.inc, seq)
	must(t, err)
	must(t, l.Close())
	return highFile{Format: fileFormat, Incarnation: l.inc.ID, Ordinal: 1, Sequence: seq, Sum: m.sum.String()}
}

// readDamaged reads a log from its start, checks each message, and returns how
// many there were.
func readDamaged(t *testing.T, cfg Config, what string) (n int, err error) {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	all, err := readAll(t, l, 0)
	for i, m := range all {
		if m.At != schemas.NewPosition(1, uint64(i+1)) {
			t.Fatalf("%s: message %d is %s", what, i, m.At)
		}
		if i > 0 && (m.Stream != "orders" || !bytes.Equal(m.Data, body(i-1, 1000))) {
			t.Fatalf("%s: message %s was changed", what, m.At)
		}
	}
	return len(all), err
}

func TestListShowsDamageAndGoesOn(t *testing.T) {
	cfg := filled(t, 90)
	l := mustOpen(t, cfg)
	path := filepath.Join(blockDir(cfg.Dir), "2.blk") // not read at the start
	b, err := os.ReadFile(path)
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	if _, err := readAll(t, l, 0); !errors.Is(err, ErrDamaged) {
		t.Fatalf("reading over the damage: %v", err)
	}
	var seen, lost int
	next := schemas.NewPosition(1, 1)
	must(t, l.List(context.Background(), 0, schemas.NewPosition(9, 1), func(e Entry) error {
		if e.At != next {
			t.Fatalf("an entry for %s, want %s", e.At, next)
		}
		next = e.Through + 1
		if e.Problem != nil {
			lost += int(e.Through - e.At + 1)
		} else {
			seen++
		}
		return nil
	}))
	if seen+lost != 91 || lost == 0 || next != schemas.NewPosition(1, 92) {
		t.Fatalf("%d entries, %d damaged, next %s", seen, lost, next)
	}
	var one []Entry
	must(t, l.List(context.Background(), schemas.NewPosition(1, 2), schemas.NewPosition(1, 3), func(e Entry) error {
		one = append(one, e)
		return nil
	}))
	if len(one) != 2 || one[0].Subject != "duet.e.orders" || one[0].Bytes != len(body(0, 1000)) || one[0].Time.IsZero() {
		t.Fatalf("%+v", one)
	}
}
