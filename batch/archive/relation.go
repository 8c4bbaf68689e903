package archive

import (
	"fmt"
	"path/filepath"
	"strings"

	"duet/internal/duck"
	"duet/schemas"
)

// positionSQL is an event's [schemas.At] from the columns of an archive file.
const positionSQL = "(" + schemas.ColIncarnation + "::BIGINT << 48 | " + schemas.ColSequence + ")"

// selectSQL reads archive files back into the shape that rows have in memory:
// the file's columns without the spelled-out position, then ColAt and ColRecord.
const selectSQL = "SELECT * EXCLUDE (" + schemas.ColLane + ", " + schemas.ColIncarnation + ", " + schemas.ColSequence + ", " +
	schemas.ColRecord + ", " + schemas.ColPart + "), " + positionSQL + " AS " + schemas.ColAt + ", " + schemas.ColRecord + " FROM read_parquet("

// Relation is a parenthesised SELECT over the rows of files at positions in
// (after, through], in order of position if the files are and the DuckDB
// instance preserves it. Only files that reach beyond the span are filtered.
// dir is the archive's folder; there must be at least one file.
func Relation(dir string, files []File, after, through schemas.At) string {
	var selects []string
	var paths []string
	flush := func(where string) {
		if len(paths) > 0 {
			selects = append(selects, selectSQL+duck.Literals(paths)+")"+where)
		}
		paths = nil
	}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		if f.From.At() >= after && f.Through.At() <= through {
			paths = append(paths, path)
			continue
		}
		flush("")
		paths = append(paths, path)
		flush(" WHERE " + within(after, through))
	}
	flush("")
	return "(" + strings.Join(selects, " UNION ALL ") + ")"
}

// within is the condition on an archive file's columns for (after, through]. It
// compares the columns themselves, so that row groups are skipped by their
// statistics.
func within(after, through schemas.At) string {
	if after.Ordinal() == through.Ordinal() {
		return fmt.Sprintf("%s = %d AND %s > %d AND %s <= %d", schemas.ColIncarnation, after.Ordinal(),
			schemas.ColSequence, after.Sequence(), schemas.ColSequence, through.Sequence())
	}
	return fmt.Sprintf("(%[1]s > %[3]d OR %[1]s = %[3]d AND %[2]s > %[4]d) AND (%[1]s < %[5]d OR %[1]s = %[5]d AND %[2]s <= %[6]d)",
		schemas.ColIncarnation, schemas.ColSequence, after.Ordinal(), after.Sequence(), through.Ordinal(), through.Sequence())
}
