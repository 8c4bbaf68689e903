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

// numeric reports whether a SQL type is a number.
func numeric(sqlType string) bool {
	name, _, _ := strings.Cut(strings.ToUpper(sqlType), "(")
	switch strings.TrimSpace(name) {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "DECIMAL", "FLOAT", "DOUBLE":
		return true
	}
	return false
}

// instant parses a time of the command line: RFC 3339, or a date or a date and
// time in UTC.
func instant(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly, time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, usageError("%q is not a time: write RFC 3339 (2026-11-21T14:00:00+01:00), or YYYY-MM-DD or YYYY-MM-DD HH:MM:SS in UTC", s)
}
