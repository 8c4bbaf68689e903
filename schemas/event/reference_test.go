package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"duet/schemas/project"
)

// The reference decoder uses encoding/json, math/big, regexp and time, and shares no
// code with the decoder. It returns the values as text, in the order of
// Decoder.Decode, or reports that the record is rejected.

var errRefused = errors.New("refused")

type refMember struct {
	name         string
	rawName, raw []byte
	object       *refObject // if the value is one
}

type refObject struct{ members []refMember }

func (o *refObject) get(name string) *refMember {
	for i := range o.members {
		if o.members[i].name == name {
			return &o.members[i]
		}
	}
	return nil
}

func refDecode(s *project.Stream, record []byte, logTime time.Time) (values []string, err error) {
	if len(record) > 1<<20 || !utf8.Valid(record) || !json.Valid(record) || refDepth(record) > 64 || !refEscapes(record) {
		return nil, errRefused
	}
	value, err := refValue(record)
	if err != nil {
		return nil, err
	}
	root, ok := value.(*refObject)
	if !ok {
		return nil, errRefused
	}
	var event *time.Time
	for _, c := range s.Columns {
		raw, err := refFind(root, c.From)
		if err != nil {
			return nil, err
		}
		if raw == nil || string(raw) == "null" {
			if c.NotNull {
				return nil, errRefused
			}
			values = append(values, "NULL")
			continue
		}
		text, at, err := refConvert(s, c, raw)
		if err != nil {
			return nil, err
		}
		if c.Name == s.EventTime {
			event = at
		}
		values = append(values, text)
	}
	if event != nil && s.FutureBound > 0 && event.Sub(logTime) > s.FutureBound {
		return nil, errRefused
	}
	if s.EventTime != "" && s.Zone != nil {
		if event == nil {
			values = append(values, "NULL", "NULL")
		} else {
			local := event.In(s.Zone)
			day := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), local.Nanosecond(), time.UTC).Add(-s.DayStarts)
			if local.Year() < 1 || local.Year() > 9999 || day.Year() < 1 {
				return nil, errRefused
			}
			values = append(values, local.Format("2006-01-02 15:04:05.999999"), day.Format(time.DateOnly))
		}
	}
	var paths [][]string
	for _, c := range s.Columns {
		paths = append(paths, strings.Split(c.From, "."))
		if strings.Contains(c.From, ".") {
			paths = append(paths, []string{c.From})
		}
	}
	extra := refExtra(root, paths)
	if extra == "" {
		extra = "NULL"
	}
	return append(values, extra), nil
}

// refValue returns a *refObject for an object. It only checks lists for repeated names.
func refValue(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	token, err := dec.Token()
	if err != nil {
		return nil, errRefused
	}
	switch token {
	case json.Delim('['):
		for dec.More() {
			var element json.RawMessage
			if dec.Decode(&element) != nil {
				return nil, errRefused
			}
			if _, err := refValue(element); err != nil {
				return nil, err
			}
		}
	case json.Delim('{'):
		object := &refObject{}
		for dec.More() {
			before := dec.InputOffset()
			name, err := dec.Token()
			if err != nil {
				return nil, errRefused
			}
			m := refMember{name: name.(string)}
			spelled := raw[before:dec.InputOffset()]
			m.rawName = spelled[bytes.IndexByte(spelled, '"'):]
			var value json.RawMessage
			if dec.Decode(&value) != nil || object.get(m.name) != nil {
				return nil, errRefused
			}
			m.raw = value
			inner, err := refValue(value)
			if err != nil {
				return nil, err
			}
			m.object, _ = inner.(*refObject)
			object.members = append(object.members, m)
		}
		return object, nil
	}
	return nil, nil
}

func refDepth(record []byte) (deepest int) {
	depth, inString := 0, false
	for i := 0; i < len(record); i++ {
		switch c := record[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

var refEscape = regexp.MustCompile(`\\(?:u([0-9a-fA-F]{4})|[^u])`)

// refEscapes rejects NUL and unpaired surrogates.
func refEscapes(record []byte) bool {
	high, highEnd := rune(0), -1
	for _, m := range refEscape.FindAllSubmatchIndex(record, -1) {
		if m[2] < 0 {
			continue
		}
		v, _ := strconv.ParseUint(string(record[m[2]:m[3]]), 16, 32)
		r := rune(v)
		switch {
		case r == 0:
			return false
		case highEnd == m[0]:
			if utf16.DecodeRune(high, r) == utf8.RuneError {
				return false
			}
			highEnd = -1
		case highEnd >= 0, utf16.IsSurrogate(r) && r >= 0xdc00:
			return false
		case utf16.IsSurrogate(r):
			high, highEnd = r, m[1]
		}
	}
	return highEnd < 0
}

// refFind returns the raw value of a column, or nil if it is missing.
func refFind(root *refObject, from string) ([]byte, error) {
	flat := root.get(from)
	parts := strings.Split(from, ".")
	if len(parts) == 1 {
		if flat == nil {
			return nil, nil
		}
		return flat.raw, nil
	}
	at := root
	var found []byte
	for i, p := range parts {
		m := at.get(p)
		if m == nil {
			break
		}
		if i == len(parts)-1 {
			found = m.raw
			break
		}
		if m.object == nil {
			if string(m.raw) != "null" {
				return nil, errRefused
			}
			break
		}
		at = m.object
	}
	if flat != nil && found != nil {
		return nil, errRefused
	}
	if flat != nil {
		return flat.raw, nil
	}
	return found, nil
}

// refExtra returns the undeclared members of an object, or "" if there are none.
func refExtra(o *refObject, paths [][]string) string {
	var kept []string
	for _, m := range o.members {
		leaf := false
		var inner [][]string
		for _, p := range paths {
			if p[0] == m.name {
				if len(p) == 1 {
					leaf = true
				} else {
					inner = append(inner, p[1:])
				}
			}
		}
		switch {
		case inner != nil && m.object != nil:
			if rest := refExtra(m.object, inner); rest != "" {
				kept = append(kept, string(m.rawName)+":"+rest)
			}
		case !leaf && inner == nil:
			kept = append(kept, string(m.rawName)+":"+string(m.raw))
		}
	}
	if kept == nil {
		return ""
	}
	return "{" + strings.Join(kept, ",") + "}"
}

var (
	refNumberText = regexp.MustCompile(`^([+-]?)([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?$`)
	refUUID       = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	refISO        = regexp.MustCompile(`^(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?( ?(?:[Zz]|UTC|[+-]\d\d(?::?\d\d)?))?)?$`)
	refTime       = regexp.MustCompile(`^(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?$`)
	refSlashed    = regexp.MustCompile(`^(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{1,2})$`)
)

// refConvert returns a value as text, and as an instant if it is a TIMESTAMP.
func refConvert(s *project.Stream, c project.Column, raw []byte) (string, *time.Time, error) {
	var text string
	isText := raw[0] == '"'
	if isText {
		if json.Unmarshal(raw, &text) != nil {
			return "", nil, errRefused
		}
	} else if raw[0] == '{' || raw[0] == '[' {
		return "", nil, errRefused
	} else {
		text = string(raw)
	}
	isWord := string(raw) == "true" || string(raw) == "false"
	switch c.Type.Kind {
	case project.Varchar:
		if isText {
			return text, nil, nil
		}
	case project.Boolean:
		if word := strings.ToLower(text); (isText || isWord) && len(word) == len(text) && (word == "true" || word == "false") {
			return word, nil, nil
		}
	case project.UUID:
		if isText && refUUID.MatchString(text) {
			return strings.ToLower(text), nil, nil
		}
	case project.Date, project.Time, project.Timestamp:
		if isText || c.Format != "" && !isWord {
			return refMoment(s, c, text)
		}
	default:
		if !isWord {
			out, err := refNumeric(c.Type, text)
			return out, nil, err
		}
	}
	return "", nil, errRefused
}

func refNumeric(t project.Type, text string) (string, error) {
	m := refNumberText.FindStringSubmatch(text)
	if m == nil || m[2]+m[3] == "" {
		return "", errRefused
	}
	mantissa, _ := new(big.Int).SetString("0"+m[2]+m[3], 10)
	exp := new(big.Int)
	if m[4] != "" {
		exp.SetString(m[4], 10)
	}
	exp.Sub(exp, big.NewInt(int64(len(m[3]))))
	if mantissa.Sign() == 0 {
		exp.SetInt64(0)
	}
	inexactType := t.Kind == project.Double || t.Kind == project.Float
	// Beyond these exponents only 0 is in range, and math/big would need too much memory.
	bound := big.NewInt(int64(2000 + len(text)))
	if exp.CmpAbs(bound) > 0 {
		if exp.Sign() < 0 && inexactType {
			return "0", nil
		}
		return "", errRefused
	}
	v := new(big.Rat).SetInt(mantissa)
	power := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), new(big.Int).Abs(exp), nil))
	if exp.Sign() < 0 {
		v.Quo(v, power)
	} else {
		v.Mul(v, power)
	}
	if m[1] == "-" {
		v.Neg(v)
	}
	switch t.Kind {
	case project.Double:
		f, _ := v.Float64()
		if math.IsInf(f, 0) {
			return "", errRefused
		}
		return strings.TrimPrefix(strconv.FormatFloat(f, 'g', -1, 64), zeroSign(f)), nil
	case project.Float:
		f, _ := v.Float32()
		if math.IsInf(float64(f), 0) {
			return "", errRefused
		}
		return strings.TrimPrefix(strconv.FormatFloat(float64(f), 'g', -1, 32), zeroSign(float64(f))), nil
	case project.Decimal:
		scaled := new(big.Rat).Mul(v, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(t.Scale)), nil)))
		limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(t.Precision)), nil)
		if !scaled.IsInt() || scaled.Num().CmpAbs(limit) >= 0 {
			return "", errRefused
		}
		return v.FloatString(t.Scale), nil
	}
	bits := map[project.Kind]uint{project.TinyInt: 8, project.SmallInt: 16, project.Integer: 32, project.BigInt: 64}[t.Kind]
	high := new(big.Int).Lsh(big.NewInt(1), bits-1)
	low := new(big.Int).Neg(high)
	if !v.IsInt() || v.Num().Cmp(high) >= 0 || v.Num().Cmp(low) < 0 {
		return "", errRefused
	}
	return v.Num().String(), nil
}

// zeroSign returns the sign to trim from a value that rounded to zero.
func zeroSign(f float64) string {
	if f == 0 && math.Signbit(f) {
		return "-"
	}
	return ""
}

func refMoment(s *project.Stream, c project.Column, text string) (string, *time.Time, error) {
	atoi := func(s string) int { n, _ := strconv.Atoi(s); return n }
	var y, mo, d, h, mi, sec int
	var fraction, offset string
	if c.Format == "%m/%d/%Y %H:%M" {
		m := refSlashed.FindStringSubmatch(text)
		if m == nil {
			return "", nil, errRefused
		}
		y, mo, d, h, mi = atoi(m[3]), atoi(m[1]), atoi(m[2]), atoi(m[4]), atoi(m[5])
	} else if c.Type.Kind == project.Time {
		m := refTime.FindStringSubmatch(text)
		if m == nil {
			return "", nil, errRefused
		}
		y, mo, d, h, mi, sec, fraction = 1970, 1, 1, atoi(m[1]), atoi(m[2]), atoi(m[3]), m[4]
	} else {
		m := refISO.FindStringSubmatch(text)
		if m == nil {
			return "", nil, errRefused
		}
		y, mo, d, h, mi, sec, fraction, offset = atoi(m[1]), atoi(m[2]), atoi(m[3]), atoi(m[4]), atoi(m[5]), atoi(m[6]), m[7], m[8]
	}
	if strings.Trim(fraction[min(6, len(fraction)):], "0") != "" {
		return "", nil, errRefused
	}
	micros := atoi((fraction + "000000")[:6])
	wall := time.Date(y, time.Month(mo), d, h, mi, sec, micros*1000, time.UTC)
	if y < 1 || wall.Year() != y || int(wall.Month()) != mo || wall.Day() != d || wall.Hour() != h || wall.Minute() != mi || wall.Second() != sec {
		return "", nil, errRefused
	}
	switch {
	case c.Type.Kind == project.Time:
		return wall.Format("15:04:05.999999"), nil, nil
	case c.Type.Kind == project.Date:
		if offset != "" || h+mi+sec+micros > 0 {
			return "", nil, errRefused
		}
		return wall.Format(time.DateOnly), nil, nil
	}
	at := wall
	if offset = strings.TrimSpace(offset); offset == "" {
		at = refZoned(wall, s.Zone)
	} else if offset[0] == '+' || offset[0] == '-' {
		digits := strings.ReplaceAll(offset[1:], ":", "") + "00"
		oh, om := atoi(digits[:2]), atoi(digits[2:4])
		if oh > 23 || om > 59 {
			return "", nil, errRefused
		}
		shift := time.Duration(oh)*time.Hour + time.Duration(om)*time.Minute
		if offset[0] == '+' {
			shift = -shift
		}
		at = wall.Add(shift)
	}
	if at.Year() < 1 || at.Year() > 9999 {
		return "", nil, errRefused
	}
	return at.Format("2006-01-02 15:04:05.999999"), &at, nil
}

// refZoned tries every offset of the zone near the local time. It returns the
// earliest instant with that local time or, if there is none, uses the offset before
// the gap.
func refZoned(wall time.Time, loc *time.Location) time.Time {
	if loc == nil {
		return wall
	}
	shows := func(t time.Time) bool {
		_, offset := t.In(loc).Zone()
		return t.Add(time.Duration(offset) * time.Second).Equal(wall)
	}
	var found *time.Time
	for minutes := -48 * 60; minutes <= 48*60; minutes += 15 {
		_, offset := wall.Add(time.Duration(minutes) * time.Minute).In(loc).Zone()
		t := wall.Add(-time.Duration(offset) * time.Second)
		if shows(t) && (found == nil || t.Before(*found)) {
			found = &t
		}
	}
	if found != nil {
		return found.UTC()
	}
	// In a gap, advance until the zone's clock passes the local time.
	last := 0
	for minutes := -48 * 60; minutes <= 48*60; minutes++ {
		t := wall.Add(time.Duration(minutes) * time.Minute)
		_, offset := t.In(loc).Zone()
		if t.Add(time.Duration(offset) * time.Second).After(wall) {
			break
		}
		last = offset
	}
	return wall.Add(-time.Duration(last) * time.Second).UTC()
}

// same compares the decoder with the reference and returns what differs.
func same(d *Decoder, s *project.Stream, record []byte, logTime time.Time) string {
	got, reject := d.Decode(record, logTime)
	want, err := refDecode(s, record, logTime)
	switch {
	case err != nil && reject == nil:
		return fmt.Sprintf("accepted as %q; the reference refuses it", got)
	case err == nil && reject != nil:
		return fmt.Sprintf("refused: %s; the reference reads %q", reject.Reason, want)
	case err == nil && strings.Join(got, "\x00") != strings.Join(want, "\x00"):
		return fmt.Sprintf("read as\n%q; the reference reads\n%q", got, want)
	}
	return ""
}
