package node

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"duet/batch/archive"
	"duet/batch/batchtest"
	"duet/batch/catalog"
	"duet/internal/base/duck"
	"duet/schemas/duetv1"
)

// exercised is a project whose view by_id has at most 300 groups.
func exercised() map[string]string {
	files := maps.Clone(shop)
	files["duet.yaml"] += "limits: {log: 1MiB}\n"
	files["views/by_shop.sql"] = "SELECT shop, count(*) AS n, sum(price) AS revenue, max(id) AS newest FROM sales GROUP BY ALL\n"
	files["views/by_id.sql"] = "SELECT id, count(*) AS n FROM sales GROUP BY id\n"
	files["views/by_id.yaml"] = "max_groups: 300\n"
	return files
}

// The node's live half passes the batch half's conformance suite.
func TestTheNodeIsALiveHalf(t *testing.T) {
	batchtest.Exercise(t, func(t *testing.T) batchtest.Harness {
		r := start(t, t.TempDir(), exercised())
		t.Cleanup(r.stop)
		e := &exercise{running: r}
		plain, err := duck.Open(duck.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { plain.Close() })
		e.plain = plain
		return batchtest.Harness{
			Live: &liveAdapter{n: r.Node}, Archive: r.lane.archive, Catalog: r.catalog, Views: r.recomputed(),
			Answered: []string{"by_shop", "by_id"},
			Append:   e.append, Answer: e.answer, Plain: e.plainAnswer, Served: e.served, Damage: e.damage,
			Limited: "by_id", Overflow: func() error { return e.append(400) },
		}
	})
}

// exercise appends sales and computes what the answers must be.
type exercise struct {
	*running
	events int
	plain  *duck.DB
}

func (e *exercise) append(n int) error {
	token := e.add(e.events+1, e.events+n)
	e.events += n
	_, err := e.views.Query(e.t.Context(), &duetv1.QueryRequest{View: "by_shop", NotBefore: token})
	return err
}

// answer queries a view as a client does.
func (e *exercise) answer(view string) (string, error) {
	res, err := e.views.Query(e.t.Context(), &duetv1.QueryRequest{View: view, Limit: 10_000})
	if err != nil {
		return "", err
	}
	var lines []string
	for _, row := range res.GetRows() {
		var values []string
		for _, v := range row.GetValues() {
			switch k := v.GetKind().(type) {
			case *duetv1.Value_IntValue:
				values = append(values, fmt.Sprint(k.IntValue))
			case *duetv1.Value_DecimalValue:
				values = append(values, k.DecimalValue)
			case *duetv1.Value_StringValue:
				values = append(values, k.StringValue)
			default:
				return "", fmt.Errorf("value %v", v)
			}
		}
		lines = append(lines, strings.Join(values, " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// plainAnswer computes a view over the events that were appended.
func (e *exercise) plainAnswer(view string) (string, error) {
	events := fmt.Sprintf("(SELECT i AS id, 's' || (i %% 3) AS shop, (i + 0.25)::DECIMAL(18,4) AS price FROM range(1, %d) r(i))", e.events+1)
	query := map[string]string{
		"by_shop": "SELECT shop, count(*), sum(price)::DECIMAL(38,4), max(id) FROM " + events + " GROUP BY shop",
		"by_id":   "SELECT id, count(*) FROM " + events + " GROUP BY id",
	}[view]
	rows, err := e.plain.Query("SELECT concat_ws(' ', *COLUMNS(*)) AS line FROM (" + query + ")")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return "", err
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), rows.Err()
}

func (e *exercise) served() uint64 {
	res, err := e.views.Query(e.t.Context(), &duetv1.QueryRequest{View: "by_shop"})
	if err != nil {
		e.t.Fatal(err)
	}
	return res.GetProof().GetGeneration()
}

// damage damages the first archive file after the log has dropped its messages, so
// that it cannot be rebuilt.
func (e *exercise) damage() (archive.File, error) {
	for e.lane.log.First().Sequence() == 1 {
		if err := e.fill(); err != nil {
			return archive.File{}, err
		}
	}
	f := e.lane.archive.Current().FilesFor("sales", 0, e.lane.archive.Through())[0]
	path := filepath.Join(e.lane.archive.Dir(), filepath.FromSlash(f.Path))
	data, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	data[len(data)/2] ^= 1
	return f, os.WriteFile(path, data, 0o600)
}

// fill appends one large event, archives it and trims the log.
func (e *exercise) fill() error {
	e.events++
	line := fmt.Sprintf(`{"id":%d,"shop":"s%d","price":"%d.25","sold_at":"2026-01-01T00:00:00Z","note":%q}`, e.events, e.events%3, e.events, strings.Repeat("x", 200_000))
	res, err := e.ingest.Append(e.t.Context(), &duetv1.AppendRequest{
		Stream: "sales", Payload: &duetv1.AppendRequest_JsonLines{JsonLines: []byte(line)}, Producer: "p", ProducerSequence: uint64(e.events),
	})
	if err != nil {
		return err
	}
	if _, err := e.views.Query(e.t.Context(), &duetv1.QueryRequest{View: "by_shop", NotBefore: res.GetToken()}); err != nil {
		return err
	}
	cut, err := (&liveAdapter{n: e.Node}).Cut(e.t.Context())
	if err != nil {
		return err
	}
	if err := errors.Join(e.lane.live.Wait(e.t.Context(), cut.Position()), e.lane.archive.Wait(e.t.Context(), cut.Position())); err != nil {
		return err
	}
	return e.lane.log.Trim(e.t.Context(), min(e.lane.archive.Through(), e.store.LiveThrough()))
}

// A generation that is whole but needs a damaged archive file is distinguished from a
// damaged one. The start names the withdrawal as the remedy, and after it the
// platform serves every event under a new number (H12, H9).
func TestAnUnservableGenerationIsWithdrawn(t *testing.T) {
	data := t.TempDir()
	r := start(t, data, exercised())
	e := &exercise{running: r}
	r.published(r.run(false), 1)
	for number := uint64(2); number <= 3; number++ {
		if err := e.append(20); err != nil {
			t.Fatal(err)
		}
		r.published(r.run(false), number)
	}
	for r.lane.log.First().Sequence() == 1 {
		if err := e.fill(); err != nil {
			t.Fatal(err)
		}
	}
	res, err := r.batch.Rollback(t.Context(), &duetv1.RollbackRequest{Generation: 1, Reason: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	if run, err := r.runner.Wait(t.Context(), res.GetRun().GetId()); err != nil || run.Generation != 4 {
		t.Fatalf("rollback: %+v, %v", run, err)
	}
	want, err := e.answer("by_shop")
	if err != nil {
		t.Fatal(err)
	}
	victim, err := e.damage() // of an event at a position after the rollback's cut, before generation 3's
	if err != nil {
		t.Fatal(err)
	}
	r.stop()

	n := broken(t, data)
	var unservable *catalog.UnservableError
	if err := <-n.Failed(); !errors.As(err, &unservable) || unservable.Number != 4 || !strings.Contains(err.Error(), victim.Path) ||
		!strings.Contains(err.Error(), "or serve the numbers of generation 3 again by withdrawing generation 4: duet batch unpublish --data "+data) {
		t.Errorf("the start failed with: %v", err)
	}
	n.Stop(t.Context())

	u, err := PlanUnpublish(t.Context(), data)
	if err != nil || u.Withdrawn != 4 || u.To.Number != 3 || !errors.As(u.Cause, &unservable) {
		t.Fatalf("plan %+v, %v", u, err)
	}
	if _, err := PlanUnpublish(t.Context(), data); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the folder is not locked: %v", err)
	}
	if _, err := u.Execute(t.Context(), "a test"); err != nil {
		t.Fatal(err)
	}
	u.Close()

	r = start(t, data, exercised())
	defer r.stop()
	e.running = r
	if got, err := e.answer("by_shop"); err != nil || got != want || e.served() != 5 {
		t.Errorf("generation %d answers\n%s\n%v, want\n%s", e.served(), got, err, want)
	}
	if err := e.append(20); err != nil {
		t.Fatal(err)
	}
	if run := r.run(false); run.GetGeneration() != 6 {
		t.Errorf("run: %v", run)
	}
}

// broken starts a node that will not become ready.
func broken(t *testing.T, data string) *Node {
	t.Helper()
	n, err := New(Config{
		Project: folder(exercised()), Data: data, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Version: "test", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}
