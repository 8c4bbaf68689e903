package query

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	duckdb "github.com/duckdb/duckdb-go/v2"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas/duetv1"
)

// Layouts of local values: fractions of a second only if there are any.
const (
	dateLayout      = "2006-01-02"
	timeLayout      = "15:04:05.999999999"
	timestampLayout = "2006-01-02T15:04:05.999999999"
)

// ToValue converts what the driver scanned from a column of SQL type typ, exactly:
// decimals and integers beyond 64 bits become strings with all declared
// decimals.
func ToValue(v any, typ string) (*duetv1.Value, error) {
	switch x := v.(type) {
	case nil:
		return &duetv1.Value{}, nil
	case bool:
		return &duetv1.Value{Kind: &duetv1.Value_BoolValue{BoolValue: x}}, nil
	case int8:
		return intValue(int64(x)), nil
	case int16:
		return intValue(int64(x)), nil
	case int32:
		return intValue(int64(x)), nil
	case int64:
		return intValue(x), nil
	case uint8:
		return intValue(int64(x)), nil
	case uint16:
		return intValue(int64(x)), nil
	case uint32:
		return intValue(int64(x)), nil
	case uint64:
		return decimalValue(strconv.FormatUint(x, 10)), nil
	case *big.Int:
		return decimalValue(x.String()), nil
	case duckdb.Decimal:
		return decimalValue(FormatDecimal(x.Value, int(x.Scale))), nil
	case float32:
		return &duetv1.Value{Kind: &duetv1.Value_DoubleValue{DoubleValue: float64(x)}}, nil
	case float64:
		return &duetv1.Value{Kind: &duetv1.Value_DoubleValue{DoubleValue: x}}, nil
	case string:
		return stringValue(x), nil
	case duckdb.UUID:
		return stringValue(formatUUID(x[:])), nil
	case []byte:
		if typ == "UUID" && len(x) == 16 {
			return stringValue(formatUUID(x)), nil
		}
		return &duetv1.Value{Kind: &duetv1.Value_BytesValue{BytesValue: x}}, nil
	case time.Time:
		return timeValue(x, typ), nil
	case duckdb.Interval:
		return localValue(formatInterval(x)), nil
	case []any:
		list := &duetv1.ListValue{}
		for _, e := range x {
			ev, err := ToValue(e, strings.TrimSuffix(typ, "[]"))
			if err != nil {
				return nil, err
			}
			list.Values = append(list.Values, ev)
		}
		return &duetv1.Value{Kind: &duetv1.Value_ListValue{ListValue: list}}, nil
	}
	return nil, fmt.Errorf("a value of type %s cannot be sent: CAST it in the view", typ)
}

func intValue(i int64) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_IntValue{IntValue: i}}
}

func decimalValue(s string) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_DecimalValue{DecimalValue: s}}
}

func stringValue(s string) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_StringValue{StringValue: s}}
}

func localValue(s string) *duetv1.Value {
	return &duetv1.Value{Kind: &duetv1.Value_LocalValue{LocalValue: s}}
}

// timeValue converts a time. Only a TIMESTAMP WITH TIME ZONE is an instant. The
// driver returns infinities as the ends of the range.
func timeValue(t time.Time, typ string) *duetv1.Value {
	if us := t.UnixMicro(); us == math.MaxInt64 || us == -math.MaxInt64 {
		if us > 0 {
			return localValue("infinity")
		}
		return localValue("-infinity")
	}
	switch t = t.UTC(); typ {
	case "DATE":
		return localValue(t.Format(dateLayout))
	case "TIME":
		return localValue(t.Format(timeLayout))
	case "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ":
		return &duetv1.Value{Kind: &duetv1.Value_InstantValue{InstantValue: timestamppb.New(t)}}
	}
	return localValue(t.Format(timestampLayout))
}

// FormatDecimal formats unscaled * 10^-scale with exactly scale decimals.
func FormatDecimal(unscaled *big.Int, scale int) string {
	s := unscaled.String()
	if scale == 0 {
		return s
	}
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	if len(s) <= scale {
		s = strings.Repeat("0", scale-len(s)+1) + s
	}
	return sign + s[:len(s)-scale] + "." + s[len(s)-scale:]
}

func formatUUID(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// formatInterval formats months, days and time of day separately, as they are
// stored.
func formatInterval(i duckdb.Interval) string {
	var parts []string
	if i.Months != 0 {
		parts = append(parts, fmt.Sprintf("%d months", i.Months))
	}
	if i.Days != 0 {
		parts = append(parts, fmt.Sprintf("%d days", i.Days))
	}
	if i.Micros != 0 || len(parts) == 0 {
		us, sign := i.Micros, ""
		if us < 0 {
			us, sign = -us, "-"
		}
		t := fmt.Sprintf("%s%02d:%02d:%02d", sign, us/3_600_000_000, us/60_000_000%60, us/1_000_000%60)
		if f := us % 1_000_000; f != 0 {
			t += strings.TrimRight(fmt.Sprintf(".%06d", f), "0")
		}
		parts = append(parts, t)
	}
	return strings.Join(parts, " ")
}

// size estimates the bytes of v in an answer.
func size(v *duetv1.Value) int {
	switch k := v.Kind.(type) {
	case *duetv1.Value_StringValue:
		return 8 + len(k.StringValue)
	case *duetv1.Value_DecimalValue:
		return 8 + len(k.DecimalValue)
	case *duetv1.Value_LocalValue:
		return 8 + len(k.LocalValue)
	case *duetv1.Value_BytesValue:
		return 8 + len(k.BytesValue)
	case *duetv1.Value_ListValue:
		n := 8
		for _, e := range k.ListValue.Values {
			n += size(e)
		}
		return n
	}
	return 12
}

// objects converts rows to objects by column name.
func objects(cols []*duetv1.Column, rows []*duetv1.Row) []*structpb.Struct {
	out := make([]*structpb.Struct, len(rows))
	for i, r := range rows {
		out[i] = &structpb.Struct{Fields: make(map[string]*structpb.Value, len(cols))}
		for j, v := range r.GetValues() {
			out[i].Fields[cols[j].GetName()] = plainValue(v)
		}
	}
	return out
}

// plainValue converts a value to JSON. What a double cannot hold exactly becomes
// a string.
func plainValue(v *duetv1.Value) *structpb.Value {
	const exact = 1 << 53
	switch k := v.GetKind().(type) {
	case nil:
		return structpb.NewNullValue()
	case *duetv1.Value_BoolValue:
		return structpb.NewBoolValue(k.BoolValue)
	case *duetv1.Value_IntValue:
		if -exact <= k.IntValue && k.IntValue <= exact {
			return structpb.NewNumberValue(float64(k.IntValue))
		}
	case *duetv1.Value_DoubleValue:
		if !math.IsNaN(k.DoubleValue) && !math.IsInf(k.DoubleValue, 0) {
			return structpb.NewNumberValue(k.DoubleValue)
		}
	case *duetv1.Value_ListValue:
		list := &structpb.ListValue{}
		for _, e := range k.ListValue.GetValues() {
			list.Values = append(list.Values, plainValue(e))
		}
		return structpb.NewListValue(list)
	}
	return structpb.NewStringValue(Text(v))
}

// Text formats a value for people; NULL is "".
func Text(v *duetv1.Value) string {
	switch k := v.GetKind().(type) {
	case *duetv1.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue)
	case *duetv1.Value_IntValue:
		return strconv.FormatInt(k.IntValue, 10)
	case *duetv1.Value_DoubleValue:
		return strconv.FormatFloat(k.DoubleValue, 'g', -1, 64)
	case *duetv1.Value_StringValue:
		return k.StringValue
	case *duetv1.Value_DecimalValue:
		return k.DecimalValue
	case *duetv1.Value_InstantValue:
		return k.InstantValue.AsTime().Format(time.RFC3339Nano)
	case *duetv1.Value_LocalValue:
		return k.LocalValue
	case *duetv1.Value_BytesValue:
		return fmt.Sprintf("%x", k.BytesValue)
	case *duetv1.Value_ListValue:
		parts := make([]string, len(k.ListValue.Values))
		for i, e := range k.ListValue.Values {
			parts[i] = Text(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return ""
}
