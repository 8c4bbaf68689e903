package event

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"

	"duet/schemas/project"
)

// appendCell appends a value to its column's builder.
func appendCell(b array.Builder, k project.Kind, c *cell) {
	if c.state != set {
		b.AppendNull()
		return
	}
	switch k {
	case project.Varchar, project.UUID:
		b.(*array.StringBuilder).BinaryBuilder.Append(c.text)
	case project.Integer:
		b.(*array.Int32Builder).Append(int32(c.i))
	case project.BigInt:
		b.(*array.Int64Builder).Append(c.i)
	case project.Decimal:
		b.(*array.Decimal128Builder).Append(decimal128.New(c.hi, uint64(c.i)))
	case project.Timestamp:
		b.(*array.TimestampBuilder).Append(arrow.Timestamp(c.i))
	case project.Date:
		b.(*array.Date32Builder).Append(arrow.Date32(c.i))
	case project.Time:
		b.(*array.Time64Builder).Append(arrow.Time64(c.i))
	case project.Boolean:
		b.(*array.BooleanBuilder).Append(c.i != 0)
	case project.Double:
		b.(*array.Float64Builder).Append(math.Float64frombits(uint64(c.i)))
	case project.Float:
		b.(*array.Float32Builder).Append(float32(math.Float64frombits(uint64(c.i))))
	case project.TinyInt:
		b.(*array.Int8Builder).Append(int8(c.i))
	case project.SmallInt:
		b.(*array.Int16Builder).Append(int16(c.i))
	}
}

// cellAt returns a row's value from a column that appendCell wrote or that DuckDB
// returned for one. The cell's text aliases the array. It fails if the column's
// type is not that of k.
func cellAt(a arrow.Array, k project.Kind, row int) (cell, error) {
	if a.IsNull(row) {
		return cell{state: null}, nil
	}
	var ok bool
	c := cell{state: set}
	switch a := a.(type) {
	case *array.String:
		c.text, ok = []byte(a.Value(row)), k == project.Varchar || k == project.UUID
	case *array.Int32:
		c.i, ok = int64(a.Value(row)), k == project.Integer
	case *array.Int64:
		c.i, ok = a.Value(row), k == project.BigInt
	case *array.Decimal128:
		v := a.Value(row)
		c.hi, c.i, ok = v.HighBits(), int64(v.LowBits()), k == project.Decimal
	case *array.Timestamp:
		ok = k == project.Timestamp && a.DataType().(*arrow.TimestampType).Unit == arrow.Microsecond
		c.i = int64(a.Value(row))
	case *array.Date32:
		c.i, ok = int64(a.Value(row)), k == project.Date
	case *array.Time64:
		ok = k == project.Time && a.DataType().(*arrow.Time64Type).Unit == arrow.Microsecond
		c.i = int64(a.Value(row))
	case *array.Boolean:
		if ok = k == project.Boolean; a.Value(row) {
			c.i = 1
		}
	case *array.Float64:
		c.i, ok = int64(math.Float64bits(a.Value(row))), k == project.Double
	case *array.Float32:
		c.i, ok = int64(math.Float64bits(float64(a.Value(row)))), k == project.Float
	case *array.Int8:
		c.i, ok = int64(a.Value(row)), k == project.TinyInt
	case *array.Int16:
		c.i, ok = int64(a.Value(row)), k == project.SmallInt
	}
	if !ok {
		return cell{}, fmt.Errorf("the column is %s, not %s", a.DataType(), project.Type{Kind: k}.SQL())
	}
	return c, nil
}

// Decoder decodes single records into text. It is not safe for concurrent use.
type Decoder struct {
	d *decoder
}

// NewDecoder returns a Decoder of records of s.
func NewDecoder(s *Schema) *Decoder { return &Decoder{d: newDecoder(s)} }

// Columns returns the names of the values that Decode returns: the schema's
// columns up to _duet_extra.
func (d *Decoder) Columns() []string {
	fields := d.d.schema.arrow.Fields()
	names := make([]string, len(fields)-2)
	for i := range names {
		names[i] = fields[i].Name
	}
	return names
}

// Decode returns a record's values as SQL prints them, with "NULL" for NULL. If
// the sequencer would reject the record at the log time now, it returns the
// Reject.
func (d *Decoder) Decode(record []byte, now time.Time) ([]string, *Reject) {
	if r := d.d.decode(record, now.UnixMicro()); r != nil {
		return nil, r
	}
	s := d.d.schema
	values := make([]string, 0, len(s.types)+1)
	for i := range s.types {
		values = append(values, d.d.cells[i].format(s.types[i]))
	}
	extra := "NULL"
	if len(d.d.extra) > 0 {
		extra = string(d.d.extra)
	}
	return append(values, extra), nil
}

// format prints a value as DuckDB casts it to VARCHAR, except that floats have
// Go's shortest form.
func (c *cell) format(t project.Type) string {
	if c.state != set {
		return "NULL"
	}
	switch t.Kind {
	case project.Varchar, project.UUID:
		return string(c.text)
	case project.Boolean:
		return strconv.FormatBool(c.i != 0)
	case project.Decimal:
		return decimal128.New(c.hi, uint64(c.i)).ToString(int32(t.Scale))
	case project.Float:
		return strconv.FormatFloat(math.Float64frombits(uint64(c.i)), 'g', -1, 32)
	case project.Double:
		return strconv.FormatFloat(math.Float64frombits(uint64(c.i)), 'g', -1, 64)
	case project.Date:
		return strings.TrimSuffix(formatMicros(c.i*day), " 00:00:00")
	case project.Time:
		return formatMicros(c.i)[len("1970-01-01 "):]
	case project.Timestamp:
		return formatMicros(c.i)
	}
	return strconv.FormatInt(c.i, 10)
}
