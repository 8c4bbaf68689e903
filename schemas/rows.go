package schemas

import "fmt"

// An event's position stands in memory as one number, ColAt, and in an archive
// file spelled out, so that any Parquet reader can use it. What follows is SQL
// for both ways between the two; whoever writes or reads such files takes it
// from here.

// SpelledSQL is the select list that turns rows as in memory into rows as in an
// archive file: the position spelled out, as the last five columns.
var SpelledSQL = fmt.Sprintf("* EXCLUDE (%[1]s, %[2]s), 0::USMALLINT AS %[3]s, (%[1]s >> %[8]d)::UINTEGER AS %[4]s, (%[1]s & %[5]d)::BIGINT AS %[6]s, %[2]s, 0::INTEGER AS %[7]s",
	ColAt, ColRecord, ColLane, ColIncarnation, int64(1)<<sequenceBits-1, ColSequence, ColPart, sequenceBits)

// PackedSQL is the [Position] of a row of an archive file.
var PackedSQL = fmt.Sprintf("(%s::BIGINT << %d | %s)", ColIncarnation, sequenceBits, ColSequence)

// WithinSQL is the condition on rows of an archive file for (after, through]. It
// compares the columns themselves, so that row groups are skipped by their
// statistics.
func WithinSQL(after, through Position) string {
	if after.Ordinal() == through.Ordinal() {
		return fmt.Sprintf("%s = %d AND %s > %d AND %s <= %d", ColIncarnation, after.Ordinal(),
			ColSequence, after.Sequence(), ColSequence, through.Sequence())
	}
	return fmt.Sprintf("(%[1]s > %[3]d OR %[1]s = %[3]d AND %[2]s > %[4]d) AND (%[1]s < %[5]d OR %[1]s = %[5]d AND %[2]s <= %[6]d)",
		ColIncarnation, ColSequence, after.Ordinal(), after.Sequence(), through.Ordinal(), through.Sequence())
}
