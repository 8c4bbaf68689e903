package batch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/internal/base/durable"
	"duet/schemas"
)

// openArchive opens an archive without a world.
func openArchive(t *testing.T, cfg archive.Config) *archive.Archive {
	t.Helper()
	cfg.Incarnation, cfg.Memory = batchtest.Incarnation, "64MB"
	a, err := archive.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// commitRow commits a block of one message with one row and the producers.
func commitRow(t *testing.T, a *archive.Archive, producers map[string]uint64) {
	t.Helper()
	seq := a.Through().Sequence() + 1
	tail := fixedTail{fmt.Sprintf(`SELECT %[1]d::BIGINT AS n, 0::USMALLINT AS _duet_lane, 1::UINTEGER AS _duet_incarnation,
		%[1]d::BIGINT AS _duet_sequence, 0::INTEGER AS _duet_record, 0::INTEGER AS _duet_part`, seq)}
	b := archive.Block{ID: seq, From: a.Through(), Through: batchtest.At(seq), Envelopes: 1, Producers: producers,
		Accounts: map[string]schemas.Account{"n": {Received: 1, Accepted: 1}}}
	if err := a.CommitBlock(context.Background(), tail, b); err != nil {
		t.Fatal(err)
	}
}

// manifestFile is what the tests look at in a manifest's file.
type manifestFile struct {
	path         string
	bytes        int64
	Number, Base uint64
}

// manifestFiles reads the manifests of an archive, in order.
func manifestFiles(t *testing.T, dir string) []manifestFile {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "manifest", "0*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var out []manifestFile
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var sealed struct{ Content manifestFile }
		if err := json.Unmarshal(data, &sealed); err != nil {
			t.Fatal(err)
		}
		sealed.Content.path, sealed.Content.bytes = path, int64(len(data))
		out = append(out, sealed.Content)
	}
	return out
}

// sameArchive compares everything that two archives hold.
func sameArchive(t *testing.T, what string, got, want *archive.Archive) {
	t.Helper()
	a, b := got.Current(), want.Current()
	if a.Number != b.Number || !reflect.DeepEqual(a.Files, b.Files) || !reflect.DeepEqual(a.Streams, b.Streams) || !reflect.DeepEqual(a.Through, b.Through) || !reflect.DeepEqual(a.Incarnations, b.Incarnations) {
		t.Fatalf("%s: manifests differ:\n%+v\n%+v", what, a, b)
	}
	if !reflect.DeepEqual(got.Producers(), want.Producers()) {
		t.Fatalf("%s: producers differ", what)
	}
}

// A manifest costs what changed, not what the archive holds.
func TestAManifestListsChangesOnly(t *testing.T) {
	const producers, blocks, links = 200_000, 50, 20
	cfg := archive.Config{Dir: t.TempDir(), ManifestLinks: links}
	a := openArchive(t, cfg)
	defer a.Close()
	want := map[string]uint64{}
	for i := range producers {
		want[fmt.Sprintf("till-%06d", i)] = uint64(i + 1)
	}
	commitRow(t, a, want)
	rng := rand.New(rand.NewPCG(seedOf(t), 1))
	for i := range blocks {
		grown := fmt.Sprintf("till-%06d", 1+rng.IntN(producers-1))
		want[grown] += 5
		added := fmt.Sprintf("new-%d", i)
		want[added] = 1
		commitRow(t, a, map[string]uint64{grown: want[grown], added: 1, "till-000000": 1}) // the last one sent nothing new
	}
	var changes, bytes, complete int64
	for _, m := range manifestFiles(t, cfg.Dir) {
		if m.Base == m.Number {
			complete++
			continue
		}
		changes++
		bytes += m.bytes
		if m.bytes > 4096 {
			t.Errorf("manifest %d has %d bytes", m.Number, m.bytes)
		}
	}
	if changes == 0 || complete != 1+blocks/(links+1) {
		t.Errorf("%d complete manifests, %d with changes of %d bytes", complete, changes, bytes)
	}
	if !reflect.DeepEqual(a.Producers(), want) {
		t.Error("the archive's producers differ from those that were committed")
	}
	again := openArchive(t, cfg)
	defer again.Close()
	sameArchive(t, "reopened", again, a)
	commitRow(t, again, nil)
}

// A missing, damaged or foreign link of the chain is refused by name; no older
// state takes its place (H6).
func TestADamagedManifestOfTheChainIsRefused(t *testing.T) {
	origin, foreign := t.TempDir(), t.TempDir()
	for dir, producer := range map[string]string{origin: "ours", foreign: "theirs"} {
		a := openArchive(t, archive.Config{Dir: dir, ManifestLinks: 4})
		for n := range uint64(8) {
			commitRow(t, a, map[string]uint64{producer: n + 1})
		}
		a.Close()
	}
	manifests := manifestFiles(t, origin)
	base := manifests[len(manifests)-1].Base
	if n := len(manifests); base != 6 || manifests[n-1].Number != 8 {
		t.Fatalf("the current manifest is %+v", manifests[n-1])
	}
	for _, m := range manifests {
		for _, how := range []string{"removed", "flipped", "truncated", "foreign"} {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
				t.Fatal(err)
			}
			victim := filepath.Join(dir, "manifest", filepath.Base(m.path))
			data, err := os.ReadFile(victim)
			if err != nil {
				t.Fatal(err)
			}
			switch how {
			case "removed":
				err = os.Remove(victim)
			case "flipped":
				data[len(data)/2] ^= 4
				err = os.WriteFile(victim, data, 0o644)
			case "truncated":
				err = os.WriteFile(victim, data[:len(data)/2], 0o644)
			case "foreign":
				if data, err = os.ReadFile(filepath.Join(foreign, "manifest", filepath.Base(m.path))); err == nil {
					err = os.WriteFile(victim, data, 0o644)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			a, err := archive.Open(context.Background(), archive.Config{Dir: dir, Incarnation: batchtest.Incarnation, Memory: "64MB"})
			if err == nil {
				a.Close()
			}
			var damage *durable.DamageError
			switch named := errors.As(err, &damage); {
			case m.Number < base && err != nil:
				t.Errorf("manifest %d, before the chain, %s: %v", m.Number, how, err)
			case m.Number < base:
			case !named:
				t.Errorf("manifest %d %s: %v", m.Number, how, err)
			case damage.Path != victim && how != "foreign": // a foreign link is detected at the next one
				t.Errorf("manifest %d %s: the error names %s", m.Number, how, damage.Path)
			}
		}
	}
}

// Cleaning keeps every manifest that the current one and the kept ones are read
// from, and every file that they name.
func TestCleaningKeepsTheChain(t *testing.T) {
	ctx := context.Background()
	cfg := archive.Config{Dir: t.TempDir(), ManifestLinks: 6, KeepManifests: 2, MergeFiles: 3}
	a := openArchive(t, cfg)
	defer func() { a.Close() }()
	deleted := 0
	var held *archive.Snapshot
	for i := range 60 {
		commitRow(t, a, map[string]uint64{fmt.Sprintf("till-%d", i%7): uint64(i + 1)})
		if _, err := a.MergeOnce(ctx); err != nil {
			t.Fatal(err)
		}
		n, err := a.CleanOnce(ctx)
		if err != nil {
			t.Fatal(err)
		}
		deleted += n
		if i == 5 {
			held = a.Snapshot()
		}
		again := openArchive(t, cfg)
		sameArchive(t, fmt.Sprintf("after block %d", i), again, a)
		for _, f := range again.Current().Files {
			if _, err := os.Stat(filepath.Join(cfg.Dir, f.Path)); err != nil {
				t.Fatal(err)
			}
		}
		if i%13 == 12 { // the next process cleans like this one
			held.Release()
			a.Close()
			a = again
			held = a.Snapshot()
			continue
		}
		again.Close()
	}
	held.Release()
	if left := len(manifestFiles(t, cfg.Dir)); deleted == 0 || left > 40 {
		t.Errorf("%d files deleted, %d manifests left", deleted, left)
	}
	// Each kept manifest can still be read, and its files exist.
	for back := 1; back <= cfg.KeepManifests; back++ {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		all := manifestFiles(t, dir)
		for _, m := range all[len(all)-back:] {
			if err := os.Remove(m.path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Join(dir, "manifest", "floor.json")); err != nil {
			t.Fatal(err)
		}
		older := openArchive(t, archive.Config{Dir: dir})
		if got := older.Current().Number; got != all[len(all)-1].Number-uint64(back) {
			t.Errorf("opened manifest %d", got)
		}
		older.Close()
	}
}
