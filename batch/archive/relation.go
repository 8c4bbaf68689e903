package archive

import (
	"path/filepath"
	"strings"

	"duet/internal/base/duck"
	"duet/schemas"
)

// selectSQL selects rows of archive files with the columns that rows have in
// memory: the file's columns without the position, then ColAt and ColRecord.
var selectSQL = "SELECT * EXCLUDE (" + schemas.ColLane + ", " + schemas.ColIncarnation + ", " + schemas.ColSequence + ", " +
	schemas.ColRecord + ", " + schemas.ColPart + "), " + schemas.PackedSQL + " AS " + schemas.ColAt + ", " + schemas.ColRecord + " FROM "

// Relation returns a parenthesised SELECT over the rows of files at positions in
// (after, through], in order of position if the files are and DuckDB preserves
// insertion order. It filters only files that reach beyond the span. dir is the
// archive's folder; there must be at least one file.
func Relation(dir string, files []File, after, through schemas.Position) string {
	var selects []string
	var paths []string
	flush := func(where string) {
		if len(paths) > 0 {
			selects = append(selects, selectSQL+duck.Parquet(paths...)+where)
		}
		paths = nil
	}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		if f.From >= after && f.Through <= through {
			paths = append(paths, path)
			continue
		}
		flush("")
		paths = append(paths, path)
		flush(" WHERE " + schemas.WithinSQL(after, through))
	}
	flush("")
	return "(" + strings.Join(selects, " UNION ALL ") + ")"
}
