package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/serving/store"
)

// recover brings the store to the archive's end: the highest generation's
// cells, then the archived rows after its cut. The live half reads the log after
// the archive. Anything that does not verify is an error (H6).
func (n *Node) recover(ctx context.Context) (*event.State, error) {
	for {
		snap := n.lane.archive.Snapshot()
		state, err := n.recoverFrom(ctx, snap)
		snap.Release()
		if !errors.Is(err, archive.ErrRepaired) {
			return state, err
		}
		n.logger.Warn("a damaged file of the archive was written again from the log")
	}
}

func (n *Node) recoverFrom(ctx context.Context, snap *archive.Snapshot) (*event.State, error) {
	g := n.catalog.Current()
	if g != nil {
		if err := n.catalog.Verify(g); err != nil {
			return nil, err
		}
	}
	state, err := n.sequencerState(ctx, snap)
	if err != nil {
		return nil, err
	}
	list := func(ctx context.Context, after schemas.Position) (store.Archived, error) {
		rows, err := n.archived(ctx, snap, after)
		if err != nil && g != nil && !errors.Is(err, archive.ErrRepaired) && ctx.Err() == nil {
			err = &catalog.UnservableError{Number: g.Number, Err: err}
		}
		return rows, err
	}
	if _, err := n.store.Rebuild(ctx, g, n.cellFiles(g), list); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	return state, n.store.Switch(ctx, g)
}

// archivedRows lists archive files while ingest continues. The files stay until
// release.
type archivedRows struct {
	n     *Node
	snaps []*archive.Snapshot
}

// list is a store.ListArchived. A file that was rebuilt from the log meanwhile is
// listed under its new name.
func (r *archivedRows) list(ctx context.Context, after schemas.Position) (store.Archived, error) {
	for {
		snap := r.n.lane.archive.Snapshot()
		r.snaps = append(r.snaps, snap)
		rows, err := r.n.archived(ctx, snap, after)
		if !errors.Is(err, archive.ErrRepaired) {
			return rows, err
		}
	}
}

func (r *archivedRows) release() {
	for _, s := range r.snaps {
		s.Release()
	}
}

// archived lists the files that hold rows after a cut, and verifies their
// checksums.
func (n *Node) archived(ctx context.Context, snap *archive.Snapshot, after schemas.Position) (store.Archived, error) {
	through := snap.Through.Position()
	out := store.Archived{Through: through, Files: map[string][]string{}, Newest: map[string]time.Time{}}
	for _, s := range n.project.Streams {
		files := snap.FilesFor(s.Name, after, through)
		if err := n.lane.archive.Verify(ctx, files); err != nil {
			return out, err
		}
		if len(files) > 0 {
			out.Files[s.Name] = paths(n.lane.archive.Dir(), files)
		}
		for _, f := range snap.FilesFor(s.Name, 0, through) {
			if t, err := time.Parse("2006-01-02 15:04:05.999999", f.NewestEvent); err == nil && t.After(out.Newest[s.Name]) {
				out.Newest[s.Name] = t
			}
		}
	}
	return out, nil
}

// sequencerState rebuilds the sequencer's state at the archive's end: producers'
// numbers from the manifest, file lines from the archive, and the ids of each
// stream's last rows.
func (n *Node) sequencerState(ctx context.Context, snap *archive.Snapshot) (*event.State, error) {
	st := event.NewState()
	st.RestoreProducers(n.lane.archive.Producers())
	db, err := duck.Open(duck.Config{MemoryLimit: "1GB", TempDir: n.data.sub("tmp")})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	through := snap.Through.Position()
	order := fmt.Sprintf(" ORDER BY %s, %s", schemas.ColAt, schemas.ColRecord)
	lines, err := snap.Relation(ctx, archive.Lines, 0, through)
	if err != nil {
		return nil, err
	}
	if lines != "" {
		if err := conn.QueryArrow(ctx, "SELECT * FROM "+lines+order, st.RestoreLines); err != nil {
			return nil, fmt.Errorf("recover the lines of files: %w", err)
		}
	}
	for _, s := range n.project.Streams {
		if len(s.ID) == 0 {
			continue
		}
		var after schemas.Position
		if alwaysHasID(s) {
			after = lastRows(snap.FilesFor(s.Name, 0, through), int64(s.IDWindow))
		}
		rel, err := snap.Relation(ctx, s.Name, after, through)
		if err != nil {
			return nil, err
		}
		if rel == "" {
			continue
		}
		schema := n.schemas[s.Name]
		restore := func(rec arrow.RecordBatch) error { return st.RestoreIDs(schema, rec) }
		if err := conn.QueryArrow(ctx, "SELECT "+idColumns(s)+" FROM "+rel+order, restore); err != nil {
			return nil, fmt.Errorf("recover the ids of stream %s: %w", s.Name, err)
		}
	}
	return st, nil
}

// alwaysHasID reports whether every event of a stream has an id. Events without
// one take no place in the window, and their number is known only after the rows
// are read.
func alwaysHasID(s *project.Stream) bool {
	return slices.ContainsFunc(s.Columns, func(c project.Column) bool { return c.NotNull && slices.Contains(s.ID, c.Name) })
}

func idColumns(s *project.Stream) string {
	out := ""
	for i, c := range s.ID {
		if i > 0 {
			out += ", "
		}
		out += duck.Ident(c)
	}
	return out
}

// lastRows returns the position after which files hold at least n rows; 0 if
// they hold fewer.
func lastRows(files []archive.File, n int64) schemas.Position {
	var rows int64
	for i := len(files) - 1; i >= 0; i-- {
		if rows += files[i].Rows; rows >= n {
			return files[i].From
		}
	}
	return 0
}

// paths are the absolute paths of archive files.
func paths(dir string, files []archive.File) []string {
	out := make([]string, len(files))
	for i, f := range files {
		out[i] = filepath.Join(dir, filepath.FromSlash(f.Path))
	}
	return out
}
