package scaffold

import (
	"fmt"
	"strings"

	"duet/schemas/project"
)

// Remedy returns what to write in a stream's file so that the column accepts the
// values, which it has rejected, such as
//
//	In streams/orders.yaml:11 write: sold_at: {type: TIMESTAMP NOT NULL, from: InvoiceDate, format: "%m/%d/%Y %H:%M"}
//
// If day and month of every value can be swapped it returns both lines, because only
// the user knows which is right. It returns "" if it finds no declaration that
// would accept them.
func Remedy(s *project.Stream, column string, values []string) string {
	for _, c := range s.Columns {
		if c.Name == column {
			return remedy(s, c, values)
		}
	}
	return ""
}

func remedy(s *project.Stream, c project.Column, values []string) string {
	found := newColumn(c.From)
	found.name = c.Name
	found.literal = true
	commas := 0
	for _, v := range values {
		if commaNumber([]byte(v)) {
			commas++
		}
		found.add([]byte(v), false)
	}
	if commas > 0 && c.Type.Numeric() && s.CSV.Decimal != "," {
		return fmt.Sprintf("In %s write: csv: {delimiter: %q, decimal: \",\"}", s.File, s.CSV.Delimiter)
	}
	t, format := found.sqlType(false)
	if t.Kind == project.Date && c.Type.Kind == project.Timestamp {
		t = c.Type // at midnight
	}
	if found.rows == 0 || t == c.Type && format == c.Format || t.Kind == project.Varchar && c.Type.Kind == project.Varchar {
		return ""
	}
	if c.Type.Kind == project.Decimal && t.Kind == project.Decimal { // never narrower than it was
		t.Scale = max(found.decimals, c.Type.Scale)
		t.Precision = max(t.Precision, c.Type.Precision)
		if found.digits+t.Scale > t.Precision {
			t.Precision = 38
		}
		if t == c.Type {
			return ""
		}
	}
	c.Type, c.Format = t, format
	if other, _ := found.ambiguous(); other != "" && format != "" {
		day, month := c, c
		if day.Format, month.Format = format, other; !DayFirst(format) {
			day.Format, month.Format = other, format
		}
		return BothOrders(fmt.Sprintf("In %s:%d write", s.File, c.Line), yamlKey(c.Name)+": "+columnText(day), yamlKey(c.Name)+": "+columnText(month))
	}
	return fmt.Sprintf("In %s:%d write: %s: %s", s.File, c.Line, yamlKey(c.Name), columnText(c))
}

// SwapDayMonth swaps the day and the month of a numeric time format. It reports
// whether the format has both.
func SwapDayMonth(format *string) bool {
	if !strings.Contains(*format, "%m") || !strings.Contains(*format, "%d") {
		return false
	}
	*format = strings.NewReplacer("%m", "%d", "%d", "%m").Replace(*format)
	return true
}

// DayFirst reports whether a time format has the day before the month.
func DayFirst(format string) bool {
	return strings.Index(format, "%d") < strings.Index(format, "%m")
}

// BothOrders returns a remedy with two lines for a stream's file, for values that
// match both.
func BothOrders(place, day, month string) string {
	return fmt.Sprintf("Day-first and month-first both match, and no value that was read distinguishes them. %s, if the day is first: %s; if the month is first: %s", place, day, month)
}
