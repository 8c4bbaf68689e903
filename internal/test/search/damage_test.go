package search

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"duet/schemas/duetv1"
)

// damage flips a bit of a stored file, cuts it or deletes it, while the node runs
// or is stopped, and then runs commands on it. Every answer must be right or an
// error that names the file: never a smaller number with status OK (H6). A
// command that fails leaves a node that serves as before (H12). With the file
// restored, everything works again.
func (w *world) damage(ctx context.Context, r *rand.Rand) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	stopped := chance(r, 40)
	if stopped {
		w.stop()
	} else {
		w.readers.stop()
	}
	victim, err := w.damageOne(r)
	if err != nil || victim == nil {
		return errors.Join(err, w.resumeReaders(ctx, stopped))
	}
	if err := w.useDamaged(ctx, r, victim, stopped); err != nil {
		return fmt.Errorf("%s was %s: %w", victim.name, victim.how, err)
	}
	w.stop()
	if err := victim.restore(); err != nil {
		return err
	}
	if err := w.restart(ctx); err != nil {
		return fmt.Errorf("%s was %s and restored: %w", victim.name, victim.how, err)
	}
	return w.check(ctx, r)
}

// resumeReaders starts what damage has stopped.
func (w *world) resumeReaders(ctx context.Context, stopped bool) error {
	if stopped {
		return w.restart(ctx)
	}
	w.readers.start(w.views, w.defs)
	return nil
}

// victim is a damaged file.
type victim struct {
	path, name string // name: as errors name it
	how        string
	content    []byte // before
}

// restore writes the file back, unless the node has repaired or removed it.
func (v *victim) restore() error {
	if _, err := os.Stat(v.path); errors.Is(err, fs.ErrNotExist) && v.how != "deleted" {
		return nil
	}
	return os.WriteFile(v.path, v.content, 0o644)
}

// damageOne damages a random file of the archive or the generations: a data file,
// or the newest manifest. It returns nil if there is none.
func (w *world) damageOne(r *rand.Rand) (*victim, error) {
	var files []string
	for _, dir := range []string{"archive", "generations"} {
		err := filepath.WalkDir(filepath.Join(w.dir, "data", dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && filepath.Ext(path) == ".parquet" {
				files = append(files, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, series := range []string{"archive/manifest", "generations"} {
		manifests, err := filepath.Glob(filepath.Join(w.dir, "data", series, "0*.json"))
		if err != nil {
			return nil, err
		}
		if len(manifests) > 0 {
			files = append(files, slices.Max(manifests))
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	v := &victim{path: pick(r, files...), how: pick(r, "flipped", "flipped", "cut", "deleted")}
	v.name = filepath.Base(v.path)
	var err error
	if v.content, err = os.ReadFile(v.path); err != nil {
		return nil, err
	}
	w.trace("    %s of %d bytes is %s", v.path, len(v.content), v.how)
	switch v.how {
	case "deleted":
		return v, os.Remove(v.path)
	case "cut":
		return v, os.WriteFile(v.path, v.content[:r.IntN(len(v.content))], 0o644)
	default:
		changed := slices.Clone(v.content)
		changed[r.IntN(len(changed))] ^= 1 << r.IntN(8)
		return v, os.WriteFile(v.path, changed, 0o644)
	}
}

// named returns nil if err names the victim, or asks to try again: the file was
// just rebuilt from the log, or a view is being rebuilt after a rollback.
func (v *victim) named(what string, err error) error {
	if err == nil || strings.Contains(err.Error(), v.name) || status.Code(err) == codes.Unavailable {
		return nil
	}
	return fmt.Errorf("%s fails without naming the file: %w", what, err)
}

// useDamaged runs random commands on the damaged folder.
func (w *world) useDamaged(ctx context.Context, r *rand.Rand, v *victim, stopped bool) error {
	if stopped {
		if err := w.startDamaged(ctx); err != nil {
			w.trace("    start: %v", err)
			return v.named("start", err)
		}
	}
	for range 1 + r.IntN(3) {
		command := pick(r, "incremental", "full", "rollback", "verify", "append", "scrub", "restart")
		var err error
		switch command {
		case "incremental", "full":
			err = w.damagedRun(ctx, v, func() (*duetv1.Run, error) {
				res, err := w.batch.StartRun(ctx, &duetv1.StartRunRequest{Full: command == "full"})
				return res.GetRun(), err
			})
		case "rollback":
			if g := w.oldGeneration(r); g != 0 {
				err = w.damagedRun(ctx, v, func() (*duetv1.Run, error) {
					res, err := w.batch.Rollback(ctx, &duetv1.RollbackRequest{Generation: g, Reason: "a search"})
					return res.GetRun(), err
				})
			}
		case "verify":
			err = w.damagedVerify(ctx, v, pick(r, w.defs.names()...))
		case "append":
			err = w.appendSome(ctx, r, 1+r.IntN(300))
		case "scrub":
			err = w.damagedScrub(ctx, v)
		default:
			w.stop()
			if err := w.startDamaged(ctx); err != nil {
				w.trace("    restart: %v", err)
				return v.named("restart", err)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		for _, name := range w.defs.names() {
			if err := w.damagedQuery(ctx, v, name); err != nil {
				return fmt.Errorf("after %s, view %s: %w", command, name, err)
			}
		}
	}
	return nil
}

// startDamaged starts the node without readers.
func (w *world) startDamaged(ctx context.Context) error {
	w.quiet = true
	defer func() { w.quiet = false }()
	err := w.start(ctx)
	if err != nil {
		w.stop()
	}
	return err
}

// damagedRun starts a run. Whether it publishes or fails, the node must serve.
func (w *world) damagedRun(ctx context.Context, v *victim, start func() (*duetv1.Run, error)) error {
	started, err := start()
	if err != nil {
		return v.named("the call", err)
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	got, err := w.batch.GetRun(ctx, &duetv1.GetRunRequest{Run: started.GetId()})
	if err != nil {
		return err
	}
	run := got.GetRun()
	w.trace("    %v: %s", run.GetState(), run.GetProblem())
	switch run.GetState() {
	case duetv1.RunState_RUN_STATE_PUBLISHED, duetv1.RunState_RUN_STATE_UNCHANGED:
		return nil
	case duetv1.RunState_RUN_STATE_FAILED:
		return v.named("the run", errors.New(run.GetProblem()))
	default:
		return fmt.Errorf("the run ended as %v: %s", run.GetState(), run.GetProblem())
	}
}

func (w *world) damagedQuery(ctx context.Context, v *victim, name string) error {
	spec := w.defs.views[name]
	if spec.raises && w.ledgers[spec.stream].poison > 0 {
		return nil // suspended
	}
	res, err := w.query(ctx, &duetv1.QueryRequest{View: name, Limit: 10000})
	if err != nil {
		w.trace("    %s: %v", name, err)
		return v.named("the query", err)
	}
	if res.GetTruncated() {
		return nil
	}
	return w.compare(res, spec.plain(spec.all(), "", everything))
}

func (w *world) damagedVerify(ctx context.Context, v *victim, name string) error {
	spec := w.defs.views[name]
	if spec.raises && w.ledgers[spec.stream].poison > 0 {
		return nil
	}
	res, err := w.views.Verify(ctx, &duetv1.VerifyRequest{View: name, NotBefore: w.token})
	if err != nil {
		w.trace("    verify %s: %v", name, err)
		return v.named("verify", err)
	}
	if n := int64(res.GetArchivedEvents() + res.GetTailEvents()); !res.GetEqual() || n != w.ledgers[spec.stream].account.Accepted {
		return fmt.Errorf("verify of %s read %d events of %d: %v", name, n, w.ledgers[spec.stream].account.Accepted, res)
	}
	return nil
}

// damagedScrub checks that a scrub finds the damage, if the file is still in use.
func (w *world) damagedScrub(ctx context.Context, v *victim) error {
	started, err := w.ops.StartScrub(ctx, &duetv1.StartScrubRequest{})
	if err != nil {
		return v.named("the call", err)
	}
	return w.until(ctx, "the scrub ends", func() (bool, error) {
		res, err := w.ops.GetScrub(ctx, &duetv1.GetScrubRequest{})
		if err != nil || res.GetLast().GetNumber() < started.GetScrub().GetNumber() {
			return false, err
		}
		w.trace("    scrub: %v", res.GetLast().GetDamage())
		for _, d := range res.GetLast().GetDamage() {
			if !strings.Contains(d.GetPath(), v.name) && !strings.Contains(d.GetProblem(), v.name) {
				return false, fmt.Errorf("the scrub reports another file: %v", d)
			}
		}
		return true, nil
	})
}
