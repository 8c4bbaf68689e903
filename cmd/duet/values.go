package main

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"duet/schemas/duetv1"
)

// text returns a value as CSV has it: NULL is empty, decimals have all digits.
func text(v *duetv1.Value) string {
	switch kind := v.GetKind().(type) {
	case *duetv1.Value_BoolValue:
		return strconv.FormatBool(kind.BoolValue)
	case *duetv1.Value_IntValue:
		return strconv.FormatInt(kind.IntValue, 10)
	case *duetv1.Value_DoubleValue:
		return strconv.FormatFloat(kind.DoubleValue, 'g', -1, 64)
	case *duetv1.Value_StringValue:
		return kind.StringValue
	case *duetv1.Value_DecimalValue:
		return kind.DecimalValue
	case *duetv1.Value_InstantValue:
		return kind.InstantValue.AsTime().Format(time.RFC3339Nano)
	case *duetv1.Value_LocalValue:
		return strings.Replace(kind.LocalValue, "T", " ", 1)
	case *duetv1.Value_BytesValue:
		return base64.StdEncoding.EncodeToString(kind.BytesValue)
	case *duetv1.Value_ListValue:
		parts := make([]string, len(kind.ListValue.GetValues()))
		for i, element := range kind.ListValue.GetValues() {
			parts[i] = text(element)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	default:
		return ""
	}
}

// appendJSON appends a value as JSON. Decimals, times and non-finite doubles are
// strings, because not every reader of JSON numbers keeps them exactly.
func appendJSON(dst []byte, v *duetv1.Value) []byte {
	switch kind := v.GetKind().(type) {
	case nil:
		return append(dst, "null"...)
	case *duetv1.Value_BoolValue:
		return strconv.AppendBool(dst, kind.BoolValue)
	case *duetv1.Value_IntValue:
		return strconv.AppendInt(dst, kind.IntValue, 10)
	case *duetv1.Value_DoubleValue:
		if math.IsNaN(kind.DoubleValue) || math.IsInf(kind.DoubleValue, 0) {
			return appendQuoted(dst, text(v))
		}
		number, _ := json.Marshal(kind.DoubleValue) // finite: cannot fail
		return append(dst, number...)
	case *duetv1.Value_LocalValue:
		return appendQuoted(dst, kind.LocalValue)
	case *duetv1.Value_ListValue:
		dst = append(dst, '[')
		for i, element := range kind.ListValue.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, element)
		}
		return append(dst, ']')
	default:
		return appendQuoted(dst, text(v))
	}
}

func appendQuoted(dst []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string: cannot fail
	return append(dst, quoted...)
}

// columnTexts returns a column's values as a table for people has them: the
// numbers of a column have one scale, the digits of a measure are grouped, buckets
// of whole days have no time, and NULL differs from every string. The empty
// string is quoted only in views' columns, which have a role: in lists of ours it
// means nothing.
func columnTexts(column *duetv1.Column, values []*duetv1.Value) []string {
	texts := make([]string, len(values))
	group, scale, days := groups(column), scaleOf(values), wholeDays(column)
	for i, value := range values {
		switch kind := value.GetKind().(type) {
		case nil:
			texts[i] = "NULL"
			continue
		case *duetv1.Value_StringValue:
			texts[i] = kind.StringValue
			if s := kind.StringValue; column.GetRole() != duetv1.ColumnRole_COLUMN_ROLE_UNSPECIFIED && (s == "" || s == "NULL" || strings.HasPrefix(s, `"`) && strings.HasSuffix(s, `"`)) {
				texts[i] = strconv.Quote(s)
			}
			continue
		case *duetv1.Value_LocalValue:
			texts[i] = text(value)
			if days {
				texts[i] = strings.TrimSuffix(texts[i], " 00:00:00")
			}
			continue
		case *duetv1.Value_DecimalValue:
			texts[i] = padded(kind.DecimalValue, scale)
		case *duetv1.Value_DoubleValue:
			texts[i] = text(value)
			if scale >= 0 && !math.IsNaN(kind.DoubleValue) && !math.IsInf(kind.DoubleValue, 0) {
				texts[i] = strconv.FormatFloat(kind.DoubleValue, 'f', scale, 64)
			}
		default:
			texts[i] = text(value)
		}
		if group {
			texts[i] = grouped(texts[i])
		}
	}
	return texts
}

// groups reports whether a column's digits are grouped: those of a measure are,
// unless its name says that it holds an id or a year.
func groups(column *duetv1.Column) bool {
	if column.GetRole() != duetv1.ColumnRole_COLUMN_ROLE_MEASURE || !numeric(column.GetType()) {
		return false
	}
	name := column.GetName()
	for _, word := range []string{"id", "no", "year"} {
		if name == word || strings.HasSuffix(name, "_"+word) {
			return false
		}
	}
	return true
}

// wholeDays reports whether a column holds buckets of days or longer.
func wholeDays(column *duetv1.Column) bool {
	for _, unit := range []string{"day", "week", "month", "quarter", "year"} {
		if strings.Contains(column.GetBucket(), unit) {
			return true
		}
	}
	return false
}

// maxDoubleScale bounds the decimals of doubles in a table. CSV and JSON have
// all digits.
const maxDoubleScale = 6

// scaleOf returns how many decimals a table prints of a column's numbers: as
// many as the longest has. It returns -1 for doubles of which some are so small
// or so large that they need an exponent.
func scaleOf(values []*duetv1.Value) int {
	scale := 0
	for _, value := range values {
		switch kind := value.GetKind().(type) {
		case *duetv1.Value_DecimalValue:
			scale = max(scale, decimals(kind.DecimalValue))
		case *duetv1.Value_DoubleValue:
			f := math.Abs(kind.DoubleValue)
			if math.IsNaN(f) || math.IsInf(f, 0) {
				continue
			}
			if f != 0 && (f < 1e-4 || f >= 1e15) {
				return -1
			}
			scale = max(scale, min(maxDoubleScale, decimals(strconv.FormatFloat(f, 'f', -1, 64))))
		}
	}
	return scale
}

// decimals returns the number of digits after the point of a number.
func decimals(number string) int {
	_, after, _ := strings.Cut(number, ".")
	return len(after)
}

// padded returns a number with zeros up to scale decimals.
func padded(number string, scale int) string {
	have := decimals(number)
	if have >= scale {
		return number
	}
	if have == 0 {
		number += "."
	}
	return number + strings.Repeat("0", scale-have)
}

// grouped separates the thousands of a plain number: 1234.5 is 1,234.5.
func grouped(number string) string {
	whole, after, point := strings.Cut(number, ".")
	digits := strings.TrimPrefix(whole, "-")
	for _, c := range digits {
		if c < '0' || c > '9' {
			return number // NaN, +Inf, 1e+300
		}
	}
	sign := len(whole) - len(digits)
	for i := len(whole) - 3; i > sign; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if !point {
		return whole
	}
	return whole + "." + after
}

// numeric reports whether a SQL type is a number.
func numeric(sqlType string) bool {
	name, _, _ := strings.Cut(strings.ToUpper(sqlType), "(")
	switch strings.TrimSpace(name) {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "DECIMAL", "FLOAT", "DOUBLE":
		return true
	}
	return false
}
