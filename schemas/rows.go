package schemas

import "fmt"

// In memory an event's position is one number, ColAt. In an archive file its parts
// are separate columns, so that any Parquet reader can use them. Code that reads or
// writes archive files converts between the two with the SQL below.

// SpelledSQL is the select list that turns rows in memory into rows of an archive
// file. The position's parts are the last five columns.
var SpelledSQL = fmt.Sprintf("* EXCLUDE (%[1]s, %[2]s), 0::USMALLINT AS %[3]s, (%[1]s >> %[8]d)::UINTEGER AS %[4]s, (%[1]s & %[5]d)::BIGINT AS %[6]s, %[2]s, 0::INTEGER AS %[7]s",
	ColAt, ColRecord, ColLane, ColIncarnation, int64(1)<<sequenceBits-1, ColSequence, ColPart, sequenceBits)

// PackedSQL is the [Position] of a row of an archive file.
var PackedSQL = fmt.Sprintf("(%s::BIGINT << %d | %s)", ColIncarnation, sequenceBits, ColSequence)

// WithinSQL returns the condition on rows of an archive file for the span
// (after, through]. It compares the columns themselves, so that DuckDB skips row
// groups by their statistics.
func WithinSQL(after, through Position) string {
	if after.Ordinal() == through.Ordinal() {
		return fmt.Sprintf("%s = %d AND %s > %d AND %s <= %d", ColIncarnation, after.Ordinal(),
			ColSequence, after.Sequence(), ColSequence, through.Sequence())
	}
	return fmt.Sprintf("(%[1]s > %[3]d OR %[1]s = %[3]d AND %[2]s > %[4]d) AND (%[1]s < %[5]d OR %[1]s = %[5]d AND %[2]s <= %[6]d)",
		ColIncarnation, ColSequence, after.Ordinal(), after.Sequence(), through.Ordinal(), through.Sequence())
}
