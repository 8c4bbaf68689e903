package query

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"duet/batch/archive"
	"duet/schemas"
	"duet/schemas/duetv1"
	"duet/schemas/view"
	"duet/serving/reason"
	"duet/serving/store"
)

// Names of the compared relations; no stream can have them.
const (
	mergedName = "_duet_merged"
	plainName  = "_duet_plain"
	keyName    = "_duet_key"
)

// Verify computes a view again with the user's own SELECT over the archive's
// files and the tail, in the transaction of the merged answer, and compares the
// two, group by group.
func (e *Engine) Verify(ctx context.Context, req *duetv1.VerifyRequest) (*duetv1.VerifyResponse, error) {
	v, err := e.view(req.GetView())
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = 20
	case limit < 0 || limit > 1_000:
		return nil, reason.Field(reason.ArgumentInvalid, "limit", "%d is not between 0 and 1,000", limit)
	}
	ctx, cancel := e.deadline(ctx)
	defer cancel()
	token, err := e.NotBefore(ctx, req.GetNotBefore())
	if err != nil {
		return nil, err
	}
	start := e.cfg.Now()
	return read(ctx, e, token, func(s *store.Snapshot) (*duetv1.VerifyResponse, error) {
		out, err := e.verify(ctx, s, v, req, limit)
		if err != nil {
			return nil, e.evaluation(ctx, v, nil, err)
		}
		out.Elapsed = durationpb.New(e.cfg.Now().Sub(start))
		return out, nil
	})
}

func (e *Engine) verify(ctx context.Context, s *store.Snapshot, v View, req *duetv1.VerifyRequest, limit int) (*duetv1.VerifyResponse, error) {
	src, err := e.source(ctx, s, v, 0)
	if err != nil {
		return nil, err
	}
	out := &duetv1.VerifyResponse{Columns: columns(v.Project, v.Compiled.Columns), Proof: src.proof}
	out.Proof.InexactColumns = inexact(v.Compiled.Columns)
	// The archive is read after the transaction began, so it holds what the
	// transaction's tail lacks. Its rows after the transaction are left out.
	through := s.LiveThrough()
	snap := e.cfg.Archive.Snapshot()
	defer snap.Release()
	files, err := e.archived(ctx, snap, v.Compiled.Stream, through)
	if err != nil {
		return nil, err
	}
	if req.GetExplain() || req.GetExplainOnly() {
		out.Files = files.files
		if files.relation != "" {
			out.Sql = v.Compiled.PlainSQL(files.relation)
		}
	}
	rows, err := e.rows(ctx, s, v, files, through, out)
	if err != nil || req.GetExplainOnly() {
		return out, err
	}
	return out, e.compare(ctx, s, v, v.Compiled.VerifySQL(src.partials), v.Compiled.PlainSQL(rows), limit, out)
}

// archived is a stream's archived events.
type archived struct {
	through  schemas.Position // every accepted event at or before it is in the files
	files    []string         // paths; nil if there is no event yet
	relation string           // parenthesised SELECT with the columns as in memory; "" without files
}

// archived lists a stream's files up to a position. They exist until the
// snapshot is released. A file that is missing or damaged is an error that names
// it (H6).
func (e *Engine) archived(ctx context.Context, s *archive.Snapshot, stream string, through schemas.Position) (archived, error) {
	out := archived{through: s.Through.Position()}
	through = min(through, out.through)
	var err error
	if out.relation, err = s.Relation(ctx, stream, 0, through); err != nil {
		return archived{}, err
	}
	for _, f := range s.FilesFor(stream, 0, through) {
		out.files = append(out.files, filepath.Join(e.cfg.Archive.Dir(), filepath.FromSlash(f.Path)))
	}
	return out, nil
}

// rows returns the relation of all accepted events through a position, from
// files and tail, and counts both.
func (e *Engine) rows(ctx context.Context, s *store.Snapshot, v View, a archived, through schemas.Position, out *duetv1.VerifyResponse) (string, error) {
	tail := fmt.Sprintf("SELECT * FROM %s WHERE %s > %d AND %s <= %d", s.Tail(v.Compiled.Stream), schemas.ColAt, a.through, schemas.ColAt, through)
	all, files := "("+tail+")", "0"
	if a.relation != "" {
		// By name: older files lack columns that were added to the stream.
		all = "(SELECT * FROM " + a.relation + " UNION ALL BY NAME " + tail + ")"
		files = "(SELECT count(*) FROM " + a.relation + ")"
	}
	var archivedCount, tailCount int64
	if err := scanOne(ctx, s, "SELECT "+files+", (SELECT count(*) FROM ("+tail+"))", &archivedCount, &tailCount); err != nil {
		return "", err
	}
	out.ArchivedEvents, out.TailEvents = uint64(archivedCount), uint64(tailCount)
	return all, nil
}

// compare joins the two answers by their keys, with NULL equal to NULL, and
// keeps the groups that one side lacks or in which a column differs. Rows with
// equal keys (a view may leave keys out of its SELECT) are paired in the order
// of their values.
func (e *Engine) compare(ctx context.Context, s *store.Snapshot, v View, merged, plain string, limit int, out *duetv1.VerifyResponse) error {
	var keys, cols, bounds []string
	for i, c := range v.Compiled.Columns {
		name := fmt.Sprintf("v%d", i)
		cols, bounds = append(cols, name), append(bounds, fmt.Sprintf("b%d", i))
		if c.Role == view.Key || c.Role == view.TimeKey {
			keys = append(keys, name)
		}
	}
	pair := "1"
	if len(keys) < len(v.Compiled.Keys) {
		partition := ""
		if len(keys) > 0 {
			partition = "PARTITION BY " + strings.Join(keys, ", ")
		}
		pair = fmt.Sprintf("row_number() OVER (%s ORDER BY %s)", partition, strings.Join(cols, ", "))
	}
	side := func(text string, cols []string) string {
		return fmt.Sprintf("SELECT %s AS %s, * FROM (%s) AS t(%s)", pair, keyName, text, strings.Join(cols, ", "))
	}
	on := []string{fmt.Sprintf("m.%s = p.%s", keyName, keyName)}
	for _, k := range keys {
		on = append(on, fmt.Sprintf("m.%s IS NOT DISTINCT FROM p.%s", k, k))
	}
	differ := []string{"m." + keyName + " IS NULL", "p." + keyName + " IS NULL"}
	var selected []string
	for i, c := range v.Compiled.Columns {
		differ = append(differ, c.DiffersSQL(fmt.Sprintf("m.v%d", i), fmt.Sprintf("p.v%d", i), fmt.Sprintf("m.b%d", i)))
		selected = append(selected, fmt.Sprintf("m.v%d AS m%d, p.v%d AS p%d", i, i, i, i))
	}
	text := fmt.Sprintf(`WITH %[1]s AS MATERIALIZED (%[2]s), %[3]s AS MATERIALIZED (%[4]s), _duet_differ AS MATERIALIZED (
		SELECT m.%[5]s IS NOT NULL AS in_merged, p.%[5]s IS NOT NULL AS in_plain, %[6]s FROM %[1]s AS m FULL OUTER JOIN %[3]s AS p ON %[7]s WHERE %[8]s)
		SELECT (SELECT count(*) FROM %[1]s) AS groups, (SELECT count(*) FROM _duet_differ) AS different, d.*
		FROM (SELECT 1) LEFT JOIN _duet_differ AS d ON true LIMIT %[9]d`,
		mergedName, side(merged, slices.Concat(cols, bounds)), plainName, side(plain, cols), keyName, strings.Join(selected, ", "), strings.Join(on, " AND "), strings.Join(differ, " OR "), limit)
	rows, _, err := e.collect(ctx, s, text, 4+2*len(cols), limit)
	if err != nil {
		return err
	}
	for _, r := range rows {
		out.Groups = uint64(r.Values[0].GetIntValue())
		out.GroupsDifferent = uint64(r.Values[1].GetIntValue())
		if out.GroupsDifferent == 0 {
			break
		}
		d := &duetv1.VerifyDifference{}
		m, p := &duetv1.Row{}, &duetv1.Row{}
		for i := range cols {
			m.Values = append(m.Values, r.Values[4+2*i])
			p.Values = append(p.Values, r.Values[5+2*i])
		}
		if r.Values[2].GetBoolValue() {
			d.Merged = m
		}
		if r.Values[3].GetBoolValue() {
			d.Recomputed = p
		}
		out.Differences = append(out.Differences, d)
	}
	out.Equal = out.GroupsDifferent == 0
	return nil
}

// scanOne reads the only row of a statement.
func scanOne(ctx context.Context, s *store.Snapshot, text string, dst ...any) error {
	rows, err := s.Query(ctx, text)
	if err != nil {
		return err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return fmt.Errorf("no row: %s", text)
	}
	if err := rows.Scan(dst...); err != nil {
		return err
	}
	return rows.Err()
}
