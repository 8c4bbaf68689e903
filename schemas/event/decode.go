package event

import (
	"fmt"
	"math"
	"strings"
	"time"

	"duet/schemas/project"
)

// Reject says why an event was rejected.
type Reject struct {
	Column string // the column whose value was refused; "" if the record itself was
	Reason string // one sentence without a full stop: `sold_at: "12/1/2010 8:26" is not a TIMESTAMP`
	Raw    []byte // the whole record as it was sent; it may alias the message
	// retryable is set if the event was beyond the future bound: the same record
	// may be accepted later.
	retryable bool
}

// cell is one value of the record that is being decoded.
type cell struct {
	state cellState
	i     int64  // integers, booleans, times, the bits of floats, a decimal's low word
	hi    int64  // a decimal's high word
	text  []byte // VARCHAR and UUID; valid until the next record
}

type cellState uint8

const (
	missing cellState = iota
	null
	set
)

// decoder decodes the records of one stream. It does not allocate for records that
// it accepts, and is not safe for concurrent use.
type decoder struct {
	scanner
	schema *Schema
	zone   *zone
	cells  []cell
	ints   [][2]int64  // ranges of the integer columns
	extra  []byte      // the undeclared members, "{" if none
	seen   []uint64    // by member mark: the last record that had the member
	record uint64      // number of records so far
	orders [][]*member // by node: the order of the members in the last record
	column int         // the column of the fault; -1 if none
}

func newDecoder(s *Schema) *decoder {
	d := &decoder{
		schema: s, zone: s.zone.clone(), cells: make([]cell, len(s.types)), ints: make([][2]int64, len(s.types)),
		seen: make([]uint64, s.leaves), orders: make([][]*member, s.nodes),
	}
	for i, t := range s.types {
		d.ints[i][0], d.ints[i][1] = integerRange(t.Kind)
	}
	return d
}

// decode fills the cells from a record, or returns why it is rejected. logTime is
// the message's log timestamp in microseconds since 1970.
func (d *decoder) decode(record []byte, logTime int64) *Reject {
	d.record++
	d.fault, d.column = "", -1
	d.b, d.names, d.text, d.extra = record, d.names[:0], d.text[:0], append(d.extra[:0], '{')
	for i := range d.cells {
		d.cells[i].state = missing
	}
	if len(record) > MaxRecordBytes {
		d.fault = fmt.Sprintf("%d bytes; a record has at most %d", len(record), MaxRecordBytes)
	} else if r := badRecord(record); r != nil {
		return r
	} else if d.checkText() && d.readRecord() && d.checkNulls() && d.derive() {
		if r := d.checkFuture(logTime); r != nil {
			return r
		}
		return nil
	}
	r := &Reject{Reason: d.fault, Raw: record}
	if d.column >= 0 {
		r.Column = d.schema.names[d.column]
		r.Reason = r.Column + ": " + r.Reason
	}
	return r
}

func (d *decoder) readRecord() bool {
	i := d.space(0)
	if i >= len(d.b) || d.b[i] != '{' {
		d.unexpected(i, "a JSON object")
		return false
	}
	if i = d.object(d.schema.root, i, 1); i < 0 {
		return false
	}
	if i = d.space(i); i < len(d.b) {
		d.bad(i, "something follows the object")
		return false
	}
	if len(d.extra) == 1 {
		d.extra = d.extra[:0]
	} else {
		d.extra = append(d.extra, '}')
	}
	return true
}

// fail sets the fault of a column's value and returns false.
func (d *decoder) fail(column int, format string, args ...any) bool {
	d.column, d.fault = column, fmt.Sprintf(format, args...)
	return false
}

// object reads the object at b[i]: columns into their cells, undeclared members
// into extra. It first tries the member at the same place in the last record.
func (d *decoder) object(n *node, i, depth int) int {
	if d.tooDeep(i, depth) {
		return -1
	}
	if i = d.expect(i, '{'); i < 0 {
		return -1
	}
	if i < len(d.b) && d.b[i] == '}' {
		return i + 1
	}
	order := d.orders[n.index]
	outer := len(d.names)
	for k := 0; ; k++ {
		var guess *member
		if k < len(order) {
			guess = order[k]
		}
		m, value := d.guessed(guess, i), 0
		if m != nil {
			value = d.expect(i+len(m.name)+2, ':')
		} else {
			if m, value = d.find(n, i); value >= 0 {
				order = remember(order, k, m)
			}
		}
		if value < 0 {
			return -1
		}
		if m == nil {
			i = d.undeclared(i, value, depth)
		} else if d.seen[m.mark] == d.record {
			d.fault = fmt.Sprintf("member %s occurs twice", m.name)
			if len(m.columns) > 0 {
				d.column = m.columns[0]
			}
			return -1
		} else {
			d.seen[m.mark] = d.record
			i = d.member(m, i, value, depth)
		}
		if i < 0 {
			return -1
		}
		if i = d.space(i); i < len(d.b) && d.b[i] == '}' {
			d.orders[n.index] = order
			return d.closeNames(outer, i+1)
		}
		if i = d.expect(i, ','); i < 0 {
			return -1
		}
	}
}

// guessed returns guess if its name is at b[i], spelled without escapes.
func (d *decoder) guessed(guess *member, i int) *member {
	if guess == nil {
		return nil
	}
	n := len(guess.name)
	if i+n+2 <= len(d.b) && d.b[i] == '"' && d.b[i+n+1] == '"' && string(d.b[i+1:i+1+n]) == guess.name {
		return guess
	}
	return nil
}

// find reads the name at b[i] and looks it up; m is nil if it is not declared.
func (d *decoder) find(n *node, i int) (m *member, value int) {
	raw, escaped, value := d.name(i)
	if value < 0 {
		return nil, -1
	}
	if escaped {
		raw = d.unescape(raw)
	}
	if m = n.byName[string(raw)]; m == nil {
		d.names = append(d.names, raw)
	}
	return m, value
}

// maxOrder bounds an entry of decoder.orders, whatever a record's number of members.
const maxOrder = 1024

// remember makes m the guess for member k.
func remember(order []*member, k int, m *member) []*member {
	if k >= maxOrder || m != nil && !m.plain {
		return order
	}
	for len(order) <= k {
		order = append(order, nil)
	}
	if m != nil || order[k] == nil {
		order[k] = m
	}
	return order
}

// undeclared appends the member whose name is at b[i] to extra, as it was sent.
func (d *decoder) undeclared(i, value, depth int) int {
	end := d.skip(value, depth)
	if end < 0 {
		return -1
	}
	d.keepName(i, value)
	d.extra = append(d.extra, d.b[value:end]...)
	return end
}

// keepName appends the name at b[i] to extra, and a colon.
func (d *decoder) keepName(i, value int) {
	if d.extra[len(d.extra)-1] != '{' {
		d.extra = append(d.extra, ',')
	}
	end := value
	for d.b[end-1] != '"' { // back over the colon and white space
		end--
	}
	d.extra = append(d.extra, d.b[i:end]...)
	d.extra = append(d.extra, ':')
}

// member reads a declared member's value.
func (d *decoder) member(m *member, name, i, depth int) int {
	if i >= len(d.b) {
		return d.unexpected(i, "a value")
	}
	if m.object != nil {
		switch {
		case d.b[i] == '{':
			before := len(d.extra)
			d.keepName(name, i)
			d.extra = append(d.extra, '{')
			open := len(d.extra)
			if i = d.object(m.object, i, depth+1); i < 0 {
				return -1
			}
			if len(d.extra) == open {
				d.extra = d.extra[:before]
			} else {
				d.extra = append(d.extra, '}')
			}
			return i
		case len(m.columns) == 0 && d.b[i] != 'n':
			end := d.skip(i, depth)
			if end >= 0 {
				d.fault = fmt.Sprintf("member %s: %s is not an object", m.name, shown(d.b[i:end]))
			}
			return -1
		case len(m.columns) == 0:
			return d.literal(i, "null")
		}
	}
	return d.value(m, i, depth)
}

// value reads the value at b[i] into m's columns.
func (d *decoder) value(m *member, i, depth int) int {
	switch c := d.b[i]; c {
	case '"':
		end, escaped := d.stringEnd(i + 1)
		if end < 0 {
			return -1
		}
		text := d.b[i+1 : end : end]
		if escaped {
			text = d.unescape(text)
		}
		for _, column := range m.columns {
			if !d.setText(column, text) {
				return -1
			}
		}
		return end + 1
	case 't', 'f':
		word := "true"
		if c == 'f' {
			word = "false"
		}
		end := d.literal(i, word)
		if end < 0 {
			return -1
		}
		for _, column := range m.columns {
			if d.schema.types[column].Kind != project.Boolean {
				d.refuse(column, d.b[i:end], mismatch)
				return -1
			}
			d.setBool(column, c == 't')
		}
		return end
	case 'n':
		end := d.literal(i, "null")
		if end < 0 {
			return -1
		}
		for _, column := range m.columns {
			d.cells[column].state = null
		}
		return end
	case '{', '[':
		end := d.skip(i, depth)
		if end >= 0 {
			d.refuse(m.columns[0], d.b[i:end], mismatch)
		}
		return -1
	}
	if c := d.b[i]; c != '-' && !isDigit(c) {
		return d.unexpected(i, "a value")
	}
	var n number
	end := d.number(i, &n)
	if end < 0 {
		return -1
	}
	for _, column := range m.columns {
		if v := d.setNumber(column, &n); v != exact {
			d.refuse(column, n.text, v)
			return -1
		}
	}
	return end
}

func (d *decoder) setBool(column int, v bool) {
	c := &d.cells[column]
	c.state, c.i = set, 0
	if v {
		c.i = 1
	}
}

func (d *decoder) setNumber(column int, n *number) (v conversion) {
	c, t := &d.cells[column], &d.schema.types[column]
	c.state = set
	switch t.Kind {
	case project.TinyInt, project.SmallInt, project.Integer, project.BigInt:
		c.i, v = n.integer(d.ints[column][0], d.ints[column][1])
	case project.Decimal:
		var lo uint64
		c.hi, lo, v = n.decimal(t.Precision, t.Scale)
		c.i = int64(lo)
	case project.Double:
		var f float64
		f, v = n.double()
		c.i = int64(math.Float64bits(f))
	case project.Float:
		var f float64
		f, v = n.float(32)
		c.i = int64(math.Float64bits(f))
	case project.Date, project.Time, project.Timestamp:
		// A number is a time only if the column has a format, such as %Y%m%d for 20101201.
		if d.schema.formats[column] == nil {
			return mismatch
		}
		return d.setTime(column, n.text)
	default:
		return mismatch
	}
	return v
}

// setText reads a string's text into a column.
func (d *decoder) setText(column int, text []byte) bool {
	c, v := &d.cells[column], mismatch
	c.state = set
	switch d.schema.types[column].Kind {
	case project.Varchar:
		c.text = text
		return true
	case project.Boolean:
		if len(text) == 4 && equalFold(text, "true") || len(text) == 5 && equalFold(text, "false") {
			d.setBool(column, len(text) == 4)
			return true
		}
	case project.UUID:
		if d.setUUID(c, text) {
			return true
		}
	case project.Date, project.Time, project.Timestamp:
		v = d.setTime(column, text)
	default:
		var n number
		if n.parseText(text) {
			v = d.setNumber(column, &n)
		}
	}
	if v == exact {
		return true
	}
	return d.refuse(column, quoted(text), v)
}

// setUUID reads 8-4-4-4-12 hexadecimal digits.
func (d *decoder) setUUID(c *cell, text []byte) bool {
	if len(text) != 36 {
		return false
	}
	start := len(d.text)
	for i, b := range text {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if b != '-' {
				return false
			}
		} else if hexDigit(b) > 15 {
			return false
		}
		if b >= 'A' && b <= 'F' {
			b |= 0x20
		}
		d.text = append(d.text, b)
	}
	c.text = d.text[start:len(d.text):len(d.text)]
	return true
}

func (d *decoder) setTime(column int, text []byte) conversion {
	c, kind, f := &d.cells[column], d.schema.types[column].Kind, d.schema.formats[column]
	var t stamp
	var v conversion
	switch {
	case f != nil:
		v = f.parse(text, &t)
	case kind == project.Time:
		var rest []byte
		if rest, v = t.isoClock(text); len(rest) > 0 {
			v = mismatch
		}
	default:
		v = t.iso(text)
	}
	if v != exact {
		return v
	}
	c.state = set
	switch kind {
	case project.Time:
		c.i = t.micros
	case project.Date:
		if t.micros != 0 {
			return inexact
		}
		if t.zoned {
			return mismatch
		}
		c.i = t.days
	default:
		if c.i = t.wall() - t.offset*second; !t.zoned {
			c.i = d.zone.utc(t.wall())
		}
		if !inYears(c.i) {
			return outOfRange
		}
	}
	return exact
}

// checkNulls enforces NOT NULL.
func (d *decoder) checkNulls() bool {
	for i := range d.schema.stream.Columns {
		if state := d.cells[i].state; state != set && d.schema.notNull[i] {
			if state == missing {
				return d.fail(i, "missing, but NOT NULL")
			}
			return d.fail(i, "null, but NOT NULL")
		}
	}
	return true
}

// derive computes the local time and the business date.
func (d *decoder) derive() bool {
	s := d.schema
	if s.local < 0 {
		return true
	}
	event, local, date := &d.cells[s.eventTime], &d.cells[s.local], &d.cells[s.local+1]
	if local.state, date.state = event.state, event.state; event.state != set {
		return true
	}
	if s.types[s.eventTime].Kind == project.Date { // a date is its own business date
		local.i, date.i = event.i*day, event.i
		return true
	}
	local.i = d.zone.local(event.i)
	date.i = floorDiv(local.i-s.dayStarts, day)
	if !inYears(local.i) || date.i < firstDay {
		return d.fail(s.eventTime, "the local time is outside the years 0001 to 9999")
	}
	return true
}

// eventMicros returns the event's time in microseconds since 1970, if it has one.
func (d *decoder) eventMicros() (int64, bool) {
	if d.schema.eventTime < 0 || d.cells[d.schema.eventTime].state != set {
		return 0, false
	}
	t := d.cells[d.schema.eventTime].i
	if d.schema.types[d.schema.eventTime].Kind == project.Date {
		t *= day
	}
	return t, true
}

func (d *decoder) checkFuture(logTime int64) *Reject {
	t, ok := d.eventMicros()
	if !ok || d.schema.futureBound == 0 || t <= logTime || t-logTime <= d.schema.futureBound {
		return nil
	}
	name := d.schema.names[d.schema.eventTime]
	return &Reject{
		Column: name, Raw: d.b, retryable: true,
		Reason: fmt.Sprintf("%s: %s is more than %v ahead of the log, which was at %s", name, formatMicros(t), d.schema.stream.FutureBound, formatMicros(logTime)),
	}
}

func quoted(text []byte) []byte { return append(append([]byte{'"'}, shown(text)...), '"') }

// refuse sets the fault of a value that does not convert. value is its text as it
// was sent.
func (d *decoder) refuse(column int, value []byte, v conversion) bool {
	t := d.schema.types[column]
	what, name := shownWhole(value), t.SQL()
	article := "a"
	if strings.IndexByte("AEIOU", name[0]) >= 0 && t.Kind != project.UUID {
		article = "an"
	}
	switch {
	case v == inexact && t.Kind == project.Decimal:
		return d.fail(column, "%s has more decimals than %s holds", what, name)
	case v == inexact && t.Kind == project.Date:
		return d.fail(column, "%s is not midnight; a DATE holds no time", what)
	case v == inexact && t.Numeric():
		return d.fail(column, "%s has a fraction; %s %s holds none", what, article, name)
	case v == inexact:
		return d.fail(column, "%s is finer than a microsecond; a %s is not", what, name)
	case v == outOfRange && t.Numeric():
		return d.fail(column, "%s is out of range for %s", what, name)
	case v == outOfRange:
		return d.fail(column, "%s is outside the years 0001 to 9999 (UTC)", what)
	}
	f := d.schema.formats[column]
	if f != nil && f.err != nil {
		return d.fail(column, "the format %s cannot be used: %v", f.text, f.err)
	}
	if f != nil {
		return d.fail(column, "%s is not a %s in the format %s", what, name, f.text)
	}
	return d.fail(column, "%s is not %s %s", what, article, name)
}

// shownWhole is like shown, but does not shorten a quoted value again.
func shownWhole(v []byte) string {
	if len(v) > 0 && v[0] == '"' {
		return string(v)
	}
	return shown(v)
}

// formatMicros prints a time as SQL would, in UTC.
func formatMicros(t int64) string {
	return time.UnixMicro(t).UTC().Format("2006-01-02 15:04:05.999999")
}
