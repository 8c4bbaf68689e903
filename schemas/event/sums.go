package event

import (
	"math/bits"

	"github.com/apache/arrow-go/v18/arrow/decimal128"

	"duet/schemas/project"
)

// maxSummedPrecision is the widest DECIMAL with a control total: the sum of 10^10 of its
// values has 38 digits.
const maxSummedPrecision = 28

// ColumnSum is the exact sum of a column's values over accepted events, the control total
// that the live half compares with the archive's files. Integers and DECIMALs of up to 28
// digits have one. NULL counts as 0.
type ColumnSum struct {
	Column string
	Value  decimal128.Num // times 10^Scale
	Scale  int
}

// String returns the sum as decimal text.
func (s ColumnSum) String() string { return s.Value.ToString(int32(s.Scale)) }

// summed returns the declared columns that have a control total.
func summed(columns []project.Column) (out []int) {
	for i, c := range columns {
		switch c.Type.Kind {
		case project.TinyInt, project.SmallInt, project.Integer, project.BigInt:
			out = append(out, i)
		case project.Decimal:
			if c.Type.Precision <= maxSummedPrecision {
				out = append(out, i)
			}
		}
	}
	return out
}

// sum is a 128-bit two's complement integer. A batch cannot overflow it.
type sum struct {
	hi, lo uint64
}

// add adds a cell's value, which has a 128-bit value only if it is a DECIMAL.
func (s *sum) add(c *cell, decimal bool) {
	hi := uint64(c.i >> 63)
	if decimal {
		hi = uint64(c.hi)
	}
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, uint64(c.i), 0)
	s.hi, _ = bits.Add64(s.hi, hi, carry)
}

// columnSums returns the sums of the accepted events since the last Reset.
func (r *rows) columnSums() []ColumnSum {
	out := make([]ColumnSum, len(r.schema.summed))
	for k, i := range r.schema.summed {
		out[k] = ColumnSum{r.schema.names[i], decimal128.New(int64(r.sums[k].hi), r.sums[k].lo), r.schema.types[i].Scale}
	}
	return out
}
