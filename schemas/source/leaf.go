package source

import (
	"fmt"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// leaf reads one column of a Parquet file. The column has at most one value a row.
type leaf struct {
	column *schema.Column
	index  int    // in the file
	key    []byte // `,"name":`
	quoted bool   // declared VARCHAR: numbers become strings
	defs   []int16
	rows   int // rows of the batch
	row    int // index of the next row
	value  int // index of the next value; a null has none
	values int // values of the batch
	read   func() (total int64, values int, err error)
	text   func(dst []byte, i int) ([]byte, error) // appends value i
}

// fill reads the next batch.
func (l *leaf) fill() error {
	total, values, err := l.read()
	if err != nil {
		return err
	}
	if total <= 0 {
		return errShortColumn
	}
	l.rows, l.values, l.row, l.value = int(total), values, 0, 0
	return nil
}

// appendNext appends the next row's value.
func (l *leaf) appendNext(dst []byte) ([]byte, error) {
	level := l.column.MaxDefinitionLevel()
	null := level > 0 && l.defs[l.row] < level
	l.row++
	if null {
		return append(dst, "null"...), nil
	}
	if l.value >= l.values {
		return dst, errShortColumn
	}
	l.value++
	return l.text(dst, l.value-1)
}

// open starts reading a row group.
func (l *leaf) open(r file.ColumnChunkReader) error {
	l.rows, l.row = 0, 0
	switch r := r.(type) {
	case *file.BooleanColumnChunkReader:
		buf := batchOf(l, r.ReadBatch)
		l.text = func(dst []byte, i int) ([]byte, error) { return appendBool(dst, buf[i], l.quoted), nil }
	case *file.Int32ColumnChunkReader:
		buf, text := batchOf(l, r.ReadBatch), integerText(l.column, l.quoted)
		l.text = func(dst []byte, i int) ([]byte, error) { return text(dst, int64(buf[i])) }
	case *file.Int64ColumnChunkReader:
		buf, text := batchOf(l, r.ReadBatch), integerText(l.column, l.quoted)
		l.text = func(dst []byte, i int) ([]byte, error) { return text(dst, buf[i]) }
	case *file.Int96ColumnChunkReader:
		buf := batchOf(l, r.ReadBatch)
		l.text = func(dst []byte, i int) ([]byte, error) {
			return appendTime(dst, buf[i].ToTime(), "2006-01-02T15:04:05.999999999Z")
		}
	case *file.Float32ColumnChunkReader:
		buf := batchOf(l, r.ReadBatch)
		l.text = func(dst []byte, i int) ([]byte, error) { return appendFloat(dst, float64(buf[i]), 32, l.quoted), nil }
	case *file.Float64ColumnChunkReader:
		buf := batchOf(l, r.ReadBatch)
		l.text = func(dst []byte, i int) ([]byte, error) { return appendFloat(dst, buf[i], 64, l.quoted), nil }
	case *file.ByteArrayColumnChunkReader:
		buf, text := batchOf(l, r.ReadBatch), bytesText(l.column, l.quoted)
		l.text = func(dst []byte, i int) ([]byte, error) { return text(dst, buf[i]) }
	case *file.FixedLenByteArrayColumnChunkReader:
		buf, text := batchOf(l, r.ReadBatch), bytesText(l.column, l.quoted)
		l.text = func(dst []byte, i int) ([]byte, error) { return text(dst, buf[i]) }
	default:
		return fmt.Errorf("column %s: its physical type is not supported", l.column.Path())
	}
	return nil
}

// batchOf sets l.read to read from a column's typed reader. It returns the buffer
// that l.read fills.
func batchOf[T bool | int32 | int64 | float32 | float64 | parquet.Int96 | parquet.ByteArray | parquet.FixedLenByteArray](
	l *leaf, read func(int64, []T, []int16, []int16) (int64, int, error),
) []T {
	buf := make([]T, parquetRows)
	l.read = func() (int64, int, error) { return read(parquetRows, buf, l.defs, nil) }
	return buf
}
