package search

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"

	"duet/internal/base/failpoint"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/serving/query"
)

// action is one step of a scenario. Its random choices come from its own seed, so
// that any subset of a scenario's actions is a scenario too.
type action struct {
	kind string
	seed uint64
}

func (a action) String() string { return fmt.Sprintf("%s/%d", a.kind, a.seed) }

var weights = []struct {
	kind   string
	weight int
}{
	{"append", 40}, {"incremental", 8}, {"full", 6}, {"begin-run", 8}, {"failing-run", 9}, {"failing-child", 3}, {"failing-series", 2}, {"burst", 2}, {"rollback", 6}, {"damage", 6},
	{"pause", 1}, {"restart", 5}, {"edit", 6}, {"new-stream", 2}, {"check", 10},
}

func newActions(r *rand.Rand, n int) []action {
	sum := 0
	for _, w := range weights {
		sum += w.weight
	}
	var out []action
	for range n {
		x := r.IntN(sum)
		for _, w := range weights {
			if x -= w.weight; x < 0 {
				out = append(out, action{w.kind, r.Uint64() % 1_000_000})
				break
			}
		}
	}
	return append(out, action{"check", 0})
}

func (w *world) do(ctx context.Context, a action) error {
	r := rand.New(rand.NewPCG(a.seed, 7))
	switch a.kind {
	case "append":
		return w.append(ctx, r)
	case "incremental", "full":
		return w.finishRun(ctx, a.kind == "full")
	case "begin-run":
		return w.beginRun(ctx, chance(r, 40))
	case "failing-run":
		return w.failingRun(ctx, r)
	case "failing-series":
		return w.failingSeries(ctx, r)
	case "burst":
		return w.burst(ctx, r)
	case "failing-child":
		return w.failingChild(ctx, r)
	case "rollback":
		return w.rollback(ctx, r)
	case "damage":
		return w.damage(ctx, r)
	case "pause":
		return w.pause(ctx)
	case "restart":
		return w.restartBetween(ctx, r)
	case "edit":
		return w.edit(ctx, r)
	case "new-stream":
		return w.newStream(ctx, r)
	}
	return w.check(ctx, r)
}

// append sends events and adds them to the model.
func (w *world) append(ctx context.Context, r *rand.Rand) error {
	return w.appendSome(ctx, r, pick(r, 1, 1+r.IntN(30), 1+r.IntN(30), 100+r.IntN(300), 100+r.IntN(300), 1000+r.IntN(2000)))
}

func (w *world) appendSome(ctx context.Context, r *rand.Rand, n int) error {
	s := pick(r, w.defs.streams...)
	l := w.ledgers[s.name]
	ids, bad, poison := pick(r, 20, min(2*s.window, 1000), 1<<30), pick(r, 0, 0, 2, 20), pick(r, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3)
	if n < 50 && chance(r, 10) {
		bad = 100
	}
	producer := pick(r, "", "p1", "p2", "p:3")
	again := 0 // records that producer has sent before, by their numbers
	if producer != "" && chance(r, 20) {
		again = int(min(w.producers[producer], uint64(pick(r, n, r.IntN(n)+1))))
	}
	records := make([]record, n)
	for i := range records {
		records[i] = s.newRecord(r, w.now, ids, bad, poison)
		if len(l.recent) > 0 && chance(r, 3) {
			records[i] = pick(r, l.recent...)
		}
	}
	session := ""
	if chance(r, 30) {
		session = fmt.Sprintf("session-%d", w.events)
	}
	var file *duetv1.FileIdentity
	if chance(r, 15) {
		file = w.file(r, n)
	}
	w.trace("    %d records into %s, producer %q, %d again, file %t", n, s.name, producer, again, file != nil)
	var requests []*duetv1.AppendRequest
	first := w.producers[producer] + 1 - uint64(again)
	cuts := []int{0, n}
	if chance(r, 40) {
		cuts = append(cuts, r.IntN(n), r.IntN(n), r.IntN(n))
		slices.Sort(cuts)
		cuts = slices.Compact(cuts)
	}
	for i, from := range cuts[:len(cuts)-1] {
		var body bytes.Buffer
		for _, rec := range records[from:cuts[i+1]] {
			body.Write(rec.line)
			body.WriteString(pick(r, "\n", "\n", "\r\n", "\n\n"))
		}
		req := &duetv1.AppendRequest{Stream: s.name, Payload: &duetv1.AppendRequest_JsonLines{JsonLines: body.Bytes()}, Session: session}
		if producer != "" {
			req.Producer, req.ProducerSequence = producer, first+uint64(from)
		}
		if file != nil {
			req.File = &duetv1.FileIdentity{Chunk: file.Chunk, Digests: file.Digests[from:cuts[i+1]]}
		}
		requests = append(requests, req)
	}
	answers, err := w.send(ctx, requests)
	if err != nil {
		return err
	}
	w.events += n
	before := l.account
	for i, from := range cuts[:len(cuts)-1] {
		to := cuts[i+1]
		known := min(max(again-from, 0), to-from)
		if a := answers[i]; int(a.GetAppended()) != to-from-known || int(a.GetDuplicate()) != known {
			return fmt.Errorf("%d records from %d, %d known: the answer is %v", to-from, first+uint64(from), known, a)
		}
		var digests []uint64
		if file != nil {
			digests = file.Digests[from+known : to]
		}
		if err := w.sequence(s, l, records[from+known:to], file, digests, answers[i].GetToken()); err != nil {
			return err
		}
	}
	if producer != "" {
		w.producers[producer] += uint64(n - again)
	}
	if session != "" {
		return w.checkSession(ctx, session, before, l.account)
	}
	return nil
}

func (w *world) checkSession(ctx context.Context, session string, before, after schemas.Account) error {
	res, err := w.ingest.GetAccount(ctx, &duetv1.GetAccountRequest{Session: session, NotBefore: w.token})
	if err != nil {
		return err
	}
	a := res.GetAccount()
	got := fmt.Sprint(a.GetReceived(), a.GetAccepted(), a.GetDuplicate(), a.GetRejected())
	if want := fmt.Sprint(after.Received-before.Received, after.Accepted-before.Accepted, after.Duplicate-before.Duplicate, after.Rejected-before.Rejected); got != want {
		return fmt.Errorf("session %s: %s, want %s", session, got, want)
	}
	return nil
}

// file returns random lines of a chunk of a file; chunks repeat.
func (w *world) file(r *rand.Rand, n int) *duetv1.FileIdentity {
	if w.files == 0 || chance(r, 30) {
		w.files++
	}
	chunk := make([]byte, 16)
	chunk[0], chunk[7] = byte(1+r.IntN(w.files)), 1
	f := &duetv1.FileIdentity{Chunk: chunk}
	from := r.IntN(100)
	for i := range n {
		f.Digests = append(f.Digests, (uint64(chunk[0])<<32+uint64(from+i))*0x9E3779B97F4A7C15)
	}
	return f
}

// sequence is the model of the sequencer.
func (w *world) sequence(s *stream, l *ledger, records []record, file *duetv1.FileIdentity, digests []uint64, token string) error {
	at, err := w.sequenceOf(token)
	if err != nil {
		return err
	}
	w.token = token
	var rows []string
	for i, rec := range records {
		l.account.Received++
		line := ""
		if file != nil {
			line = string(file.Chunk) + string(binary.LittleEndian.AppendUint64(nil, digests[i]))
		}
		if l.lines[line] {
			l.account.Duplicate++
			continue
		}
		if line != "" && !rec.retryable {
			l.lines[line] = true
		}
		if rec.bad {
			l.account.Rejected++
			continue
		}
		if id, ok := s.idOf(rec.values); ok && l.known(id, s.window) {
			l.account.Duplicate++
			continue
		}
		l.account.Accepted++
		w.no++
		rows = append(rows, s.row(rec, at, w.no))
		if rec.poison && l.poison == 0 {
			l.poison = at
		}
		if len(l.recent) < 200 {
			l.recent = append(l.recent, rec)
		} else {
			l.recent[w.no%200] = rec
		}
	}
	return w.accepted(s, rows)
}

// sequenceOf is the log sequence in a token.
func (w *world) sequenceOf(token string) (int64, error) {
	t, err := query.ParseToken(token, w.incarnation)
	return int64(t.Through.Position().Sequence()), err
}

// send appends requests in order and returns their answers.
func (w *world) send(ctx context.Context, requests []*duetv1.AppendRequest) ([]*duetv1.AppendResponse, error) {
	if len(requests) == 1 {
		res, err := w.ingest.Append(ctx, requests[0])
		if err != nil {
			return nil, fmt.Errorf("append: %w", err)
		}
		return []*duetv1.AppendResponse{res}, nil
	}
	st, err := w.ingest.AppendStream(ctx)
	if err != nil {
		return nil, err
	}
	for _, req := range requests {
		if err := st.Send(&duetv1.AppendStreamRequest{Append: req}); err != nil {
			break // Recv has the reason
		}
	}
	if err := st.CloseSend(); err != nil {
		return nil, err
	}
	var out []*duetv1.AppendResponse
	for range requests {
		res, err := st.Recv()
		if err != nil {
			return nil, fmt.Errorf("append: %w", err)
		}
		out = append(out, res.GetAppended())
	}
	_, _ = st.Recv() // the end
	return out, nil
}

// beginRun starts a run; the next check or run waits for it.
func (w *world) beginRun(ctx context.Context, full bool) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	res, err := w.batch.StartRun(ctx, &duetv1.StartRunRequest{Full: full})
	if err != nil {
		return err
	}
	w.run = res.GetRun().GetId()
	return nil
}

func (w *world) finishRun(ctx context.Context, full bool) error {
	if err := w.beginRun(ctx, full); err != nil {
		return err
	}
	return w.settle(ctx)
}

// failing lists the steps at which a run can fail. The log's steps are left to
// internal/test/torture, because they make the outcome of an append unknown.
var failing = []string{
	"run.cut", "run.archived", "run.computed", "run.reported", "run.staged", "run.published", "run.switched",
	"generation.cells", "generation.publish", "generation.published", "generation.cleaning",
	"archive.exported", "archive.adopted", "archive.manifest", "archive.published", "archive.released", "archive.merged", "archive.cleaning", "log.trim",
}

// failingRun makes a run or a rollback fail at a step. The answers must stay
// right.
func (w *world) failingRun(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	point, nth := pick(r, failing...), 1
	if strings.HasPrefix(point, "generation.cells") {
		nth = 1 + r.IntN(len(w.defs.views))
	}
	w.trace("    at %s:%d", point, nth)
	disarm := failpoint.On(point, nth, func() error { return syscall.EIO })
	defer disarm()
	var id string
	g := w.oldGeneration(r)
	if g != 0 && chance(r, 25) {
		res, err := w.batch.Rollback(ctx, &duetv1.RollbackRequest{Generation: g, Reason: "a search"})
		if err != nil {
			return err
		}
		id = res.GetRun().GetId()
	} else {
		g = 0
		res, err := w.batch.StartRun(ctx, &duetv1.StartRunRequest{Full: chance(r, 40)})
		if err != nil {
			return err
		}
		id = res.GetRun().GetId()
	}
	if err := w.settle(ctx); err != nil {
		return w.survive(ctx, err)
	}
	if err := w.survive(ctx, w.failedOrPublished(ctx, id)); err != nil || g == 0 {
		return err
	}
	disarm()
	return w.rebuild(ctx)
}

// failingSeries leaves more cuts than the store keeps apart, with events between
// them; then, usually, a run publishes.
func (w *world) failingSeries(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	disarm := failpoint.On("run.cut", 0, func() error { return syscall.EIO })
	defer disarm()
	for range 6 + r.IntN(8) {
		if err := w.appendSome(ctx, r, 1+r.IntN(20)); err != nil {
			return err
		}
		res, err := w.batch.StartRun(ctx, &duetv1.StartRunRequest{})
		if err != nil {
			return err
		}
		if err := w.settle(ctx); err != nil {
			return err
		}
		if err := w.failedOrPublished(ctx, res.GetRun().GetId()); err != nil {
			return err
		}
	}
	disarm()
	if chance(r, 30) {
		return nil
	}
	return w.finishRun(ctx, chance(r, 30))
}

// burst sends many small requests, so that most become their own micro-batch.
func (w *world) burst(ctx context.Context, r *rand.Rand) error {
	for range 20 + r.IntN(20) {
		if err := w.appendSome(ctx, r, 1+r.IntN(3)); err != nil {
			return err
		}
	}
	return nil
}

// failedOrPublished checks the final state of a run that met a fault. It must not
// be held, which would mean that the halves differ.
func (w *world) failedOrPublished(ctx context.Context, id string) error {
	res, err := w.batch.GetRun(ctx, &duetv1.GetRunRequest{Run: id})
	if err != nil {
		return err
	}
	run := res.GetRun()
	w.trace("    %v: %s", run.GetState(), run.GetProblem())
	switch run.GetState() {
	case duetv1.RunState_RUN_STATE_PUBLISHED, duetv1.RunState_RUN_STATE_FAILED, duetv1.RunState_RUN_STATE_UNCHANGED:
	default:
		return fmt.Errorf("run after a fault: %v", run)
	}
	select { // a failed switch ends the node soon after
	case err := <-w.node.Failed():
		return errEnded{err}
	default:
		return nil
	}
}

// failingChild makes the batch child die or fail at a step.
func (w *world) failingChild(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	w.armChild(pick(r, "recompute.started", "recompute.written", "recompute.computed", "recompute.finished") + pick(r, "", ":error=EIO"))
	defer w.armChild("")
	res, err := w.batch.StartRun(ctx, &duetv1.StartRunRequest{Full: chance(r, 40)})
	if err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	return w.failedOrPublished(ctx, res.GetRun().GetId())
}

// oldGeneration returns a random kept generation, or 0 if there is none.
func (w *world) oldGeneration(r *rand.Rand) uint64 {
	var numbers []uint64
	for n := range w.gens {
		numbers = append(numbers, n)
	}
	if len(numbers) == 0 {
		return 0
	}
	slices.Sort(numbers)
	return pick(r, numbers...)
}

func (w *world) rollback(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	g := w.oldGeneration(r)
	if g == 0 {
		return nil
	}
	w.trace("    to generation %d of %d", g, len(w.gens))
	res, err := w.batch.Rollback(ctx, &duetv1.RollbackRequest{Generation: g, Reason: "a search"})
	if err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	run, err := w.batch.GetRun(ctx, &duetv1.GetRunRequest{Run: res.GetRun().GetId()})
	if err != nil {
		return err
	}
	if run.GetRun().GetState() != duetv1.RunState_RUN_STATE_PUBLISHED {
		return fmt.Errorf("rollback: %v", run.GetRun())
	}
	if err := w.rebuild(ctx); err != nil {
		return err
	}
	if chance(r, 50) {
		_, err = w.batch.Resume(ctx, &duetv1.ResumeRequest{})
	}
	return err
}

// rebuild starts a run if the newest generation, after a rollback, lacks a view or
// holds it by another definition. The view answers again after that run.
func (w *world) rebuild(ctx context.Context) error {
	var newest uint64
	for n := range w.gens {
		newest = max(newest, n)
	}
	for name, v := range w.defs.views {
		if newest != 0 && w.gens[newest].views[name] != v {
			return w.finishRun(ctx, false)
		}
	}
	return nil
}

// restartBetween restarts the node, often with everything archived, and resends
// ids and lines that a restart could forget.
func (w *world) restartBetween(ctx context.Context, r *rand.Rand) error {
	if chance(r, 50) {
		if err := w.finishRun(ctx, false); err != nil {
			return err
		}
	}
	if err := w.restart(ctx); err != nil {
		return err
	}
	return w.appendSome(ctx, r, 1+r.IntN(300))
}

func (w *world) pause(ctx context.Context) error {
	_, err := w.batch.Pause(ctx, &duetv1.PauseRequest{Reason: "a search"})
	return err
}

// edit changes, drops and adds views and restarts the node with them.
func (w *world) edit(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	next := w.defs.clone()
	names := next.names()
	for range 1 + r.IntN(2) {
		name := pick(r, names...)
		switch r.IntN(3) {
		case 0: // another definition under the name
			v := newViewSpec(r, pick(r, next.streams...))
			try := next.clone()
			try.views[name] = v
			if try.compile(name) == nil {
				next.views[name] = v
			}
		case 1:
			if len(next.views) > 1 {
				delete(next.views, name)
			}
		}
	}
	if err := next.fill(r, min(len(next.views)+r.IntN(2), 6)); err != nil {
		return err
	}
	w.stop()
	w.defs = next
	return w.restart(ctx)
}

func (w *world) newStream(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	if len(w.defs.streams) >= 3 {
		return nil
	}
	w.stop()
	w.defs = w.defs.clone()
	if err := w.addStream(r); err != nil {
		return err
	}
	if err := w.defs.fill(r, len(w.defs.views)+1); err != nil {
		return err
	}
	return w.restart(ctx)
}
