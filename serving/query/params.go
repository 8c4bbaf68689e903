package query

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"duet/internal/base/duck"
	"duet/schemas/duetv1"
	"duet/schemas/project"
	"duet/serving/reason"
)

var (
	paramName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)
	decimalText = regexp.MustCompile(`^-?[0-9]{1,38}(\.[0-9]{1,38})?$`)
)

// bind writes the parameters into a condition: each $name outside of strings,
// quoted names and comments becomes the literal of its value. The compiler then
// parses the text and accepts scalar expressions only, so a value stays a value.
// used collects the names seen.
func bind(field, cond string, params map[string]*duetv1.Value, used map[string]bool) (string, error) {
	if !strings.Contains(cond, "$") {
		return cond, nil
	}
	var out strings.Builder
	for i := 0; i < len(cond); {
		if n := opaque(cond[i:], i > 0 && isWord(cond[i-1])); n > 0 {
			out.WriteString(cond[i : i+n])
			i += n
			continue
		}
		if cond[i] != '$' {
			out.WriteByte(cond[i])
			i++
			continue
		}
		end := i + 1
		for end < len(cond) && isWord(cond[end]) {
			end++
		}
		name := cond[i+1 : end]
		v, ok := params[name]
		if !ok {
			return "", reason.Field(reason.ConditionInvalid, field, "parameter $%s has no value; there are %s", name, listOr(slices.Sorted(maps.Keys(params)), "none"))
		}
		lit, err := literal(v)
		if err != nil {
			return "", reason.Field(reason.ConditionInvalid, "params", "$%s: %s", name, err.Error())
		}
		used[name] = true
		out.WriteString(lit)
		i = end
	}
	return out.String(), nil
}

// opaque returns the length of the string, quoted name or comment that s begins
// with; 0 if it begins with none. An unfinished one extends to the end.
func opaque(s string, afterWord bool) int {
	until := func(from int, end string) int {
		if n := strings.Index(s[from:], end); n >= 0 {
			return from + n + len(end)
		}
		return len(s)
	}
	switch {
	case s[0] == '\'' || s[0] == '"':
		return until(1, s[:1]) // a doubled quote starts the next string
	case !afterWord && len(s) > 1 && (s[0] == 'e' || s[0] == 'E') && s[1] == '\'':
		for i := 2; i < len(s); i++ {
			switch s[i] {
			case '\\':
				i++
			case '\'':
				return i + 1
			}
		}
		return len(s)
	case strings.HasPrefix(s, "--"):
		return until(2, "\n")
	case strings.HasPrefix(s, "/*"):
		depth := 0
		for i := 0; i+1 < len(s); i++ {
			switch s[i : i+2] {
			case "/*":
				depth++
				i++
			case "*/":
				depth--
				i++
			}
			if depth == 0 {
				return i + 1
			}
		}
		return len(s)
	case s[0] == '$' && !afterWord:
		if n := strings.IndexByte(s[1:], '$'); n >= 0 && (n == 0 || paramName.MatchString(s[1:1+n])) {
			return until(n+2, s[:n+2])
		}
	}
	return 0
}

func isWord(c byte) bool {
	return c == '_' || c >= utf8.RuneSelf || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// literal returns v as SQL text.
func literal(v *duetv1.Value) (string, error) {
	switch k := v.GetKind().(type) {
	case nil:
		return "NULL", nil
	case *duetv1.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue), nil
	case *duetv1.Value_IntValue:
		if k.IntValue < 0 {
			return "CAST('" + strconv.FormatInt(k.IntValue, 10) + "' AS BIGINT)", nil
		}
		return strconv.FormatInt(k.IntValue, 10), nil
	case *duetv1.Value_DoubleValue:
		if math.IsNaN(k.DoubleValue) {
			return "CAST('nan' AS DOUBLE)", nil
		}
		return "CAST('" + strconv.FormatFloat(k.DoubleValue, 'g', -1, 64) + "' AS DOUBLE)", nil
	case *duetv1.Value_StringValue:
		if strings.ContainsRune(k.StringValue, 0) || !utf8.ValidString(k.StringValue) {
			return "", reason.New(reason.ConditionInvalid, "text must be UTF-8 without NUL")
		}
		return duck.Literal(k.StringValue), nil
	case *duetv1.Value_DecimalValue:
		return decimalLiteral(k.DecimalValue)
	case *duetv1.Value_InstantValue:
		if err := k.InstantValue.CheckValid(); err != nil {
			return "", reason.New(reason.ConditionInvalid, "not a valid instant")
		}
		return "CAST('" + k.InstantValue.AsTime().Format("2006-01-02 15:04:05.999999") + "' AS TIMESTAMP)", nil
	case *duetv1.Value_LocalValue:
		return localLiteral(k.LocalValue)
	case *duetv1.Value_ListValue:
		if len(k.ListValue.Values) == 0 {
			return "", reason.New(reason.ConditionInvalid, "an empty list has no SQL; leave the condition out")
		}
		parts := make([]string, len(k.ListValue.Values))
		for i, e := range k.ListValue.Values {
			if _, nested := e.GetKind().(*duetv1.Value_ListValue); nested {
				return "", reason.New(reason.ConditionInvalid, "a list of lists is not supported")
			}
			lit, err := literal(e)
			if err != nil {
				return "", err
			}
			parts[i] = lit
		}
		return "(" + strings.Join(parts, ", ") + ")", nil
	}
	return "", reason.New(reason.ConditionInvalid, "bytes are not supported")
}

func decimalLiteral(s string) (string, error) {
	digits := strings.NewReplacer("-", "", ".", "").Replace(s)
	if !decimalText.MatchString(s) || len(digits) > 38 {
		return "", reason.New(reason.ConditionInvalid, "%q is not a decimal of up to 38 digits", clip(s))
	}
	scale := 0
	if dot := strings.IndexByte(s, '.'); dot >= 0 {
		scale = len(s) - dot - 1
	}
	return "CAST('" + s + "' AS DECIMAL(" + strconv.Itoa(len(digits)) + "," + strconv.Itoa(scale) + "))", nil
}

func localLiteral(s string) (string, error) {
	for _, l := range []struct{ layout, typ string }{
		{dateLayout, "DATE"}, {timeLayout, "TIME"}, {timestampLayout, "TIMESTAMP"},
		{"2006-01-02 15:04:05.999999999", "TIMESTAMP"}, {"2006-01-02 15:04", "TIMESTAMP"},
	} {
		if _, err := time.Parse(l.layout, s); err == nil {
			return "CAST('" + s + "' AS " + l.typ + ")", nil
		}
	}
	return "", reason.New(reason.ConditionInvalid, "%q is not a date, time or timestamp: write 2026-11-21, 14:00:00 or 2026-11-21T14:00:00", clip(s))
}

// clip shortens a client's text for an error.
func clip(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "..."
	}
	return s
}

// DidYouMean names what a client may have meant by a name that does not exist.
func DidYouMean(name string, names []string) string {
	if near := project.Nearest(name, names); near != "" {
		return "did you mean " + near + "? There are " + listOr(names, "none")
	}
	return "there are " + listOr(names, "none")
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}
