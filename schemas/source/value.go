package source

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow/float16"
	"github.com/apache/arrow-go/v18/parquet/schema"
)

// The functions below write values of a Parquet file as JSON with their exact text:
// integers and floats as numbers, or as strings if the column is declared VARCHAR;
// decimals and times as strings.

func appendBool(dst []byte, v, quoted bool) []byte {
	if quoted {
		return append(strconv.AppendBool(append(dst, '"'), v), '"')
	}
	return strconv.AppendBool(dst, v)
}

// appendFloat appends the shortest text that reads back as the same value.
func appendFloat(dst []byte, v float64, bits int, quoted bool) []byte {
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	if quoted || math.IsNaN(v) || math.IsInf(v, 0) {
		return append(strconv.AppendFloat(append(dst, '"'), v, format, -1, bits), '"')
	}
	return strconv.AppendFloat(dst, v, format, -1, bits)
}

// integerText returns the function that writes a column of integers, which may be
// numbers, decimals, dates or times.
func integerText(c *schema.Column, quoted bool) func(dst []byte, v int64) ([]byte, error) {
	switch t := c.LogicalType().(type) {
	case schema.DecimalLogicalType:
		return func(dst []byte, v int64) ([]byte, error) { return appendDecimal(dst, big.NewInt(v), int(t.Scale())) }
	case schema.DateLogicalType:
		return func(dst []byte, v int64) ([]byte, error) {
			return appendTime(dst, time.Unix(v*86400, 0).UTC(), "2006-01-02")
		}
	case schema.TimeLogicalType:
		per := perSecond(t.TimeUnit())
		return func(dst []byte, v int64) ([]byte, error) {
			if v < 0 || v >= 86400*per {
				return dst, errors.New("the time is not between 00:00 and 24:00")
			}
			return appendTime(dst, instant(v, per), "15:04:05.999999999")
		}
	case schema.TimestampLogicalType:
		layout := "2006-01-02T15:04:05.999999999"
		if t.IsAdjustedToUTC() { // otherwise it is local time
			layout += "Z"
		}
		per := perSecond(t.TimeUnit())
		return func(dst []byte, v int64) ([]byte, error) { return appendTime(dst, instant(v, per), layout) }
	case schema.IntLogicalType:
		if !t.IsSigned() {
			mask := uint64(math.MaxUint64) >> (64 - uint(min(max(t.BitWidth(), 1), 64)))
			return func(dst []byte, v int64) ([]byte, error) {
				return appendInteger(dst, strconv.AppendUint(nil, uint64(v)&mask, 10), quoted), nil
			}
		}
	}
	var scratch []byte
	return func(dst []byte, v int64) ([]byte, error) {
		scratch = strconv.AppendInt(scratch[:0], v, 10)
		return appendInteger(dst, scratch, quoted), nil
	}
}

func appendInteger(dst, digits []byte, quoted bool) []byte {
	if quoted {
		return append(append(append(dst, '"'), digits...), '"')
	}
	return append(dst, digits...)
}

func perSecond(u schema.TimeUnitType) int64 {
	switch u {
	case schema.TimeUnitMillis:
		return 1e3
	case schema.TimeUnitNanos:
		return 1e9
	}
	return 1e6
}

// instant returns the time v units after 1970, with per units in a second.
func instant(v, per int64) time.Time {
	return time.Unix(v/per, v%per*(1e9/per)).UTC()
}

func appendTime(dst []byte, t time.Time, layout string) ([]byte, error) {
	if y := t.Year(); y < 1 || y > 9999 {
		return dst, fmt.Errorf("the year %d is not between 0001 and 9999", y)
	}
	return append(t.AppendFormat(append(dst, '"'), layout), '"'), nil
}

// bytesText returns the function that writes a column of bytes, which may be text,
// decimals or UUIDs.
func bytesText(c *schema.Column, quoted bool) func(dst, v []byte) ([]byte, error) {
	switch t := c.LogicalType().(type) {
	case schema.DecimalLogicalType:
		return func(dst, v []byte) ([]byte, error) { return appendDecimal(dst, signed(v), int(t.Scale())) }
	case schema.UUIDLogicalType:
		return appendUUID
	case schema.Float16LogicalType:
		return func(dst, v []byte) ([]byte, error) {
			if len(v) != 2 {
				return dst, fmt.Errorf("a half float of %d bytes", len(v))
			}
			return appendFloat(dst, float64(float16.FromLEBytes(v).Float32()), 32, quoted), nil
		}
	}
	return func(dst, v []byte) ([]byte, error) {
		if !utf8.Valid(v) {
			return dst, errors.New("the value is binary: neither text nor a number")
		}
		return append(appendText(append(dst, '"'), v, nil), '"'), nil
	}
}

func appendUUID(dst, v []byte) ([]byte, error) {
	if len(v) != 16 {
		return dst, fmt.Errorf("a UUID of %d bytes", len(v))
	}
	dst = append(dst, '"')
	for i, part := range [][]byte{v[:4], v[4:6], v[6:8], v[8:10], v[10:]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return append(dst, '"'), nil
}

// signed reads a big-endian two's complement.
func signed(b []byte) *big.Int {
	n := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return n
}

// appendDecimal appends an unscaled value with its decimals.
func appendDecimal(dst []byte, unscaled *big.Int, scale int) ([]byte, error) {
	if scale < 0 || scale > 76 || unscaled.BitLen() > 256 {
		return dst, errors.New("the decimal has more than 256 bits or 76 decimals")
	}
	dst = append(dst, '"')
	if unscaled.Sign() < 0 {
		dst = append(dst, '-')
	}
	digits := new(big.Int).Abs(unscaled).String()
	for len(digits) <= scale {
		digits = "0" + digits
	}
	dst = append(dst, digits[:len(digits)-scale]...)
	if scale > 0 {
		dst = append(append(dst, '.'), digits[len(digits)-scale:]...)
	}
	return append(dst, '"'), nil
}
