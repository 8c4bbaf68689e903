package archive

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"duet/internal/base/duck"
	"duet/internal/base/durable"
	"duet/schemas"
)

// Verify checks the checksums of files before they are read (H6), and repairs
// damaged ones from the log if it can. It does not read a file again that it
// verified before and whose inode, time and size are unchanged; [Archive.Scrub]
// does. After a repair it returns [ErrRepaired]: the current manifest names other
// files, and the caller must take a new snapshot.
func (a *Archive) Verify(ctx context.Context, files []File) error {
	repaired := false
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		err := a.verify(f)
		var damage *durable.DamageError
		if errors.As(err, &damage) {
			if err = a.repair(ctx, f, err); err == nil {
				repaired = true
			}
		}
		if err != nil {
			return err
		}
	}
	if repaired {
		return ErrRepaired
	}
	return nil
}

// ErrRepaired reports that a damaged file was rebuilt from the log. The caller
// must take a new snapshot and start over.
var ErrRepaired = errors.New("archive: a damaged file was rebuilt from the log; the manifest has changed")

// verify checks one file's checksum, unless it is verified and unchanged.
func (a *Archive) verify(f File) error {
	st, err := os.Stat(a.path(f.Path))
	if errors.Is(err, os.ErrNotExist) {
		return a.damage(f, "the file is missing")
	}
	if err != nil {
		return err
	}
	now := stamp{size: st.Size(), mtime: st.ModTime(), inode: st.Sys().(*syscall.Stat_t).Ino}
	a.mu.Lock()
	known := a.verified[f.Path] == now
	a.mu.Unlock()
	if known {
		return nil
	}
	sum, err := durable.SumFile(a.path(f.Path))
	if err != nil {
		return a.damage(f, "the file cannot be read: "+err.Error())
	}
	if sum != f.Sum {
		return a.damage(f, fmt.Sprintf("the file has %d bytes with checksum %s, the manifest says %d with %s", sum.Bytes, sum.XXH3, f.Bytes, f.XXH3))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.verified[f.Path] = now
	return nil
}

// repair rebuilds a damaged file from the log and publishes a manifest that names
// the new one. If it cannot, it returns damage with the reason added.
func (a *Archive) repair(ctx context.Context, f File, damage error) error {
	if a.cfg.Repairer == nil {
		return damage
	}
	tmp := a.tempFile()
	defer os.Remove(tmp)
	if err := a.cfg.Repairer.Repair(ctx, f, tmp); err != nil {
		return errors.Join(damage, fmt.Errorf("archive: rebuild %s from the log: %w", f.Path, err))
	}
	if err := a.inOrder(ctx, tmp); err != nil {
		return errors.Join(damage, err)
	}
	again, done, err := a.adopt(ctx, f.Data, tmp, f.From, f.Through)
	if err != nil {
		return errors.Join(damage, err)
	}
	defer done()
	if again.Rows != f.Rows || again.Content != f.Content {
		return errors.Join(damage, fmt.Errorf("archive: the rows of %s rebuilt from the log, at positions after %s through %s, differ from those that the manifest describes: %d rows with content hash %s, want %d with %s; the rebuilt file is not used", f.Path, f.From, f.Through, again.Rows, again.Content, f.Rows, f.Content))
	}
	return a.publish(Repair, func(m *Manifest, r *record) error {
		if m.lists(f.Path) { // otherwise a merge has replaced it
			r.Added, r.Removed = []File{again}, []string{f.Path}
		}
		return nil
	})
}

// tempFile returns a new name for an unfinished file.
func (a *Archive) tempFile() string {
	return filepath.Join(a.cfg.Dir, "tmp", durable.Name()+".parquet")
}

// adopt reads a written file back with DuckDB (footer, columns, rows, positions,
// content hash, sums), then makes it durable under a new name. Cleaning spares
// the file until the caller calls the returned function, after publishing.
func (a *Archive) adopt(ctx context.Context, data, tmp string, from, through schemas.Position) (File, func(), error) {
	f, err := a.readBack(ctx, data, tmp, from, through)
	if err != nil {
		return File{}, nil, err
	}
	f.Path = data + "/" + durable.Name() + ".parquet"
	if err := a.files.MkdirAll(filepath.Dir(a.path(f.Path))); err != nil {
		return File{}, nil, fmt.Errorf("archive: %w", err)
	}
	a.mu.Lock()
	a.writing[f.Path] = true
	a.mu.Unlock()
	done := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.writing, f.Path)
	}
	if f.Sum, err = a.files.Adopt(tmp, a.path(f.Path)); err == nil {
		err = fpAdopted.Hit()
	}
	if err != nil {
		done()
		return File{}, nil, fmt.Errorf("archive: %w", err)
	}
	return f, done, nil
}

var decimalType = regexp.MustCompile(`^DECIMAL\((\d+),(\d+)\)$`)

// summable reports whether a column of this type gets a control total.
func summable(sqlType string) bool {
	switch sqlType {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT":
		return true
	}
	if m := decimalType.FindStringSubmatch(sqlType); m != nil {
		precision, _ := strconv.Atoi(m[1])
		return precision <= 28 // a sum of 10^10 rows stays within 38 digits
	}
	return false
}

type column struct{ name, sqlType string }

// contentSQL is the aggregate that computes [File].Content over rows with these
// columns. The package comment defines it.
func contentSQL(columns []column) string {
	columns = slices.SortedFunc(slices.Values(columns), func(a, b column) int { return strings.Compare(a.name, b.name) })
	var schema, values []string
	for _, c := range columns {
		schema = append(schema, c.name+" "+c.sqlType)
		values = append(values, duck.Ident(c.name))
		if c.sqlType == "DOUBLE" || c.sqlType == "FLOAT" {
			values = append(values, "signbit("+duck.Ident(c.name)+")") // hash(-0.0) = hash(0.0)
		}
	}
	return "sum(hash(" + duck.Literal(strings.Join(schema, ", ")) + ", " + strings.Join(values, ", ") + "))::VARCHAR"
}

func describe(ctx context.Context, db *duck.DB, relation string) ([]column, error) {
	rows, err := db.QueryContext(ctx, "SELECT column_name, column_type FROM (DESCRIBE FROM "+relation+")")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []column
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.name, &c.sqlType); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// readBack reads a Parquet file and describes it. It fails if the file does not
// have the format of [Tail.ExportBlock].
func (a *Archive) readBack(ctx context.Context, data, path string, from, through schemas.Position) (File, error) {
	refuse := func(err error) (File, error) {
		return File{}, fmt.Errorf("archive: read back %s of %s: %w", path, data, err)
	}
	relation := duck.Parquet(path)
	columns, err := describe(ctx, a.db, relation)
	if err != nil {
		return refuse(err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(columns, func(c column) bool { return c.name == name })
	}
	for _, name := range []string{schemas.ColLane, schemas.ColIncarnation, schemas.ColSequence, schemas.ColRecord, schemas.ColPart} {
		if !has(name) {
			return refuse(fmt.Errorf("the position column %s is missing", name))
		}
	}
	f := File{Data: data, From: from, Through: through}
	exprs := []string{"count(*)", "min(" + schemas.PackedSQL + ")", "max(" + schemas.PackedSQL + ")", "count(DISTINCT " + schemas.ColLane + ")"}
	event := a.cfg.EventTime[data]
	if event == "" || !has(event) {
		event = "NULL"
	} else {
		event = duck.Ident(event)
	}
	exprs = append(exprs, "min("+event+")::VARCHAR", "max("+event+")::VARCHAR", "coalesce("+contentSQL(columns)+", '0')")
	var sums []string
	for _, c := range columns {
		if data != Rejects && data != Lines && data != Envelopes && summable(c.sqlType) && !strings.HasPrefix(c.name, "_duet_") {
			sums = append(sums, c.name)
			exprs = append(exprs, "coalesce(sum("+duck.Ident(c.name)+"), 0)::VARCHAR")
		}
	}
	var low, high sql.NullInt64
	var oldest, newest sql.NullString
	var lanes int64
	texts := make([]string, len(sums))
	dest := []any{&f.Rows, &low, &high, &lanes, &oldest, &newest, &f.Content}
	for i := range texts {
		dest = append(dest, &texts[i])
	}
	if err := a.db.QueryRowContext(ctx, "SELECT "+strings.Join(exprs, ", ")+" FROM "+relation).Scan(dest...); err != nil {
		return refuse(err)
	}
	if f.Rows == 0 {
		return refuse(errors.New("it has no rows"))
	}
	if schemas.Position(low.Int64) <= from || schemas.Position(high.Int64) > through || lanes != 1 {
		return refuse(fmt.Errorf("positions go from %s to %s, in %d lanes; want them after %s, through %s, in one lane", schemas.Position(low.Int64), schemas.Position(high.Int64), lanes, from, through))
	}
	f.OldestEvent, f.NewestEvent = oldest.String, newest.String
	for i, name := range sums {
		if f.Sums == nil {
			f.Sums = map[string]string{}
		}
		f.Sums[name] = texts[i]
	}
	return f, nil
}
