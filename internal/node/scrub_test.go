package node

import (
	"os"
	"slices"
	"strings"
	"testing"

	"duet/batch/catalog"
	"duet/schemas/duetv1"
)

// flip flips one bit of a file in place, and keeps inode, size and time.
func flip(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// A scrub that a client asks for finds files that were damaged while the server
// trusted them, rebuilds the one of the archive, and names the cell file in the
// status until a copy is restored.
func TestAScrubFindsDamageUnderARunningServer(t *testing.T) {
	r := start(t, t.TempDir(), shop)
	defer r.stop()
	r.check(300, r.add(1, 300))
	r.published(r.run(false), 1)
	files := r.lane.archive.Current().FilesFor("sales", 0, r.lane.archive.Through())
	if err := r.lane.archive.Verify(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	archived := r.lane.archive.Dir() + "/" + files[0].Path
	views := r.catalog.Current().Views
	i := slices.IndexFunc(views, func(v catalog.View) bool { return v.Name == "by_shop" })
	cells := r.catalog.Path(views[i])
	whole, err := os.ReadFile(cells)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, archived)
	flip(t, cells)
	if err := r.lane.archive.Verify(t.Context(), files); err != nil {
		t.Fatalf("the file is not trusted, so this test proves nothing: %v", err)
	}
	s := r.scrub()
	found := map[string]bool{}
	for _, d := range s.GetDamage() {
		found[d.GetPath()] = d.GetRepaired()
		if !strings.Contains(d.GetProblem(), d.GetPath()) {
			t.Errorf("the problem does not name the file: %s", d.GetProblem())
		}
	}
	repairedArchive, foundArchive := found[archived]
	repairedCells, foundCells := found[cells]
	if len(found) != 2 || !foundArchive || !repairedArchive || !foundCells || repairedCells {
		t.Fatalf("the scrub found %v, want %s rebuilt and %s damaged", found, archived, cells)
	}
	r.check(300, "")
	status, err := r.ops.GetStatus(t.Context(), &duetv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(status.GetLastScrub().GetDamage()) != 2 || status.GetHealth() != duetv1.Health_HEALTH_DEGRADED ||
		!slices.ContainsFunc(status.GetProblems(), func(p string) bool { return strings.Contains(p, cells) }) {
		t.Fatalf("status: %v", status)
	}
	if err := os.WriteFile(cells, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := r.scrub(); len(s.GetDamage()) != 0 || s.GetNumber() != 2 {
		t.Fatalf("after the copy: %v", s)
	}
	if status, err = r.ops.GetStatus(t.Context(), &duetv1.GetStatusRequest{}); err != nil || status.GetHealth() != duetv1.Health_HEALTH_OK {
		t.Fatalf("status after the copy: %v, %v", status, err)
	}
}

// scrub starts a scrub and waits for its end.
func (r *running) scrub() *duetv1.Scrub {
	r.t.Helper()
	started, err := r.ops.StartScrub(r.t.Context(), &duetv1.StartScrubRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		res, err := r.ops.GetScrub(r.t.Context(), &duetv1.GetScrubRequest{})
		if err != nil {
			r.t.Fatal(err)
		}
		if res.GetLast().GetNumber() >= started.GetScrub().GetNumber() {
			return res.GetLast()
		}
	}
}
