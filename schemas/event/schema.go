package event

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"

	"duet/schemas"
	"duet/schemas/project"
)

// BusinessDate is a column that every stream with a zone has, beside
// <event_time>_local: the local date after subtracting the stream's day_starts.
const BusinessDate = "business_date"

// Schema describes how the events of one stream become rows. It is immutable and
// safe for concurrent use. Columns always have the same order: the declared ones,
// then (of a stream with a zone) <event_time>_local and business_date, then
// _duet_extra, _duet_at and _duet_record.
type Schema struct {
	stream  *project.Stream
	arrow   *arrow.Schema
	types   []project.Type // of the declared and the derived columns
	notNull []bool
	names   []string
	formats []*timeFormat // nil means ISO 8601, or that the column is not a time
	root    *node
	leaves  int // number of members; bounds member.mark
	nodes   int

	eventTime   int   // column, -1 if none
	local       int   // column of <event_time>_local; business_date follows; -1 if none
	zone        *zone // never nil; UTC by default
	dayStarts   int64 // microseconds
	futureBound int64 // microseconds; 0 means none
	summed      []int // columns with a control total
	id          []int // columns
	idSeed      uint64
	window      int
	// fingerprint changes with anything that can change a record's verdict.
	fingerprint uint64
}

// node is a JSON object that holds columns: the record itself or an object on a
// dotted path.
type node struct {
	index  int
	byName map[string]*member // by unescaped name
}

// member is one name in a node. Two members can share a leaf: the column of
// path a.b is found under "a" then "b", and under "a.b".
type member struct {
	name  string
	plain bool // JSON needs no escapes for the name, so raw bytes can be compared
	// mark identifies the leaf or container, which may occur once in a record.
	mark    int
	columns []int // the columns read from this member
	object  *node // non-nil if paths continue inside
}

// defaultIDWindow is the default number of accepted events whose ids are held.
const defaultIDWindow = 1_000_000

// NewSchema returns the schema of a stream, which must not change afterwards.
func NewSchema(s *project.Stream) *Schema {
	sc := &Schema{
		stream: s, eventTime: -1, local: -1, zone: newZone(s.Zone),
		dayStarts: s.DayStarts.Microseconds(), futureBound: s.FutureBound.Microseconds(), window: s.IDWindow,
	}
	sc.root, sc.summed = sc.newNode(), summed(s.Columns)
	if sc.window <= 0 {
		sc.window = defaultIDWindow
	}
	for i, c := range s.Columns {
		sc.addColumn(c.Name, c.Type, c.NotNull)
		sc.formats[i] = compileFormat(c.Type.Kind, c.Format)
		if c.Name == s.EventTime {
			sc.eventTime = i
		}
		from := c.From
		if from == "" {
			from = c.Name
		}
		sc.addPath(from, i)
	}
	if sc.eventTime >= 0 && s.Zone != nil {
		sc.local = len(sc.types)
		notNull := s.Columns[sc.eventTime].NotNull
		sc.addColumn(s.EventTime+"_local", project.Type{Kind: project.Timestamp}, notNull)
		sc.addColumn(BusinessDate, project.Type{Kind: project.Date}, notNull)
	}
	var id strings.Builder
	for _, name := range s.ID {
		for i, c := range s.Columns {
			if c.Name == name {
				sc.id = append(sc.id, i)
				fmt.Fprintf(&id, "%s %s\n", name, c.Type.SQL())
			}
		}
	}
	sc.idSeed = xxh3.HashString(id.String())
	sc.fingerprint = fingerprint(s)
	sc.buildArrow()
	return sc
}

func (sc *Schema) addColumn(name string, t project.Type, notNull bool) {
	sc.names = append(sc.names, name)
	sc.types = append(sc.types, t)
	sc.notNull = append(sc.notNull, notNull)
	sc.formats = append(sc.formats, nil)
}

// addPath adds the members of a column's path. A dotted path also gets a member
// with the path as its name, because flat sources spell it so.
func (sc *Schema) addPath(from string, column int) {
	n, parts := sc.root, strings.Split(from, ".")
	for _, p := range parts[:len(parts)-1] {
		m := sc.member(n, p)
		if m.object == nil {
			m.object = sc.newNode()
		}
		n = m.object
	}
	leaf := sc.member(n, parts[len(parts)-1])
	leaf.columns = append(leaf.columns, column)
	if len(parts) > 1 {
		flat := sc.member(sc.root, from)
		flat.columns, flat.mark = leaf.columns, leaf.mark
	}
}

func (sc *Schema) newNode() *node {
	sc.nodes++
	return &node{index: sc.nodes - 1, byName: map[string]*member{}}
}

func (sc *Schema) member(n *node, name string) *member {
	if m := n.byName[name]; m != nil {
		return m
	}
	m := &member{name: name, plain: plainText(name), mark: sc.leaves}
	sc.leaves++
	n.byName[name] = m
	return m
}

// fingerprint hashes everything in a definition that can change a verdict.
func fingerprint(s *project.Stream) uint64 {
	zone := "UTC"
	if s.Zone != nil {
		zone = s.Zone.String()
	}
	type column struct {
		Name, Type, From, Format string
		NotNull                  bool
	}
	var columns []column
	for _, c := range s.Columns {
		columns = append(columns, column{c.Name, c.Type.SQL(), c.From, c.Format, c.NotNull})
	}
	text, err := json.Marshal([]any{"1", s.Name, columns, s.EventTime, zone, s.Zone != nil, s.DayStarts, s.ID, s.FutureBound, s.CSV})
	if err != nil {
		panic(err) // cannot happen: strings, numbers and booleans marshal
	}
	return xxh3.Hash(text)
}

func (sc *Schema) buildArrow() {
	var fields []arrow.Field
	for i, name := range sc.names {
		fields = append(fields, arrow.Field{Name: name, Type: arrowType(sc.types[i]), Nullable: !sc.notNull[i]})
	}
	fields = append(fields,
		arrow.Field{Name: schemas.ColExtra, Type: arrow.BinaryTypes.String, Nullable: true},
		arrow.Field{Name: schemas.ColAt, Type: arrow.PrimitiveTypes.Int64},
		arrow.Field{Name: schemas.ColRecord, Type: arrow.PrimitiveTypes.Int32})
	sc.arrow = arrow.NewSchema(fields, nil)
}

// Stream returns the definition that the schema was made from.
func (sc *Schema) Stream() *project.Stream { return sc.stream }

// Arrow returns the Arrow schema of the rows: DECIMAL is decimal128, TIMESTAMP is
// timestamp[us] without zone, TIME is time64[us], UUID is text.
func (sc *Schema) Arrow() *arrow.Schema { return sc.arrow }

// SQLColumns lists the rows' columns for CREATE TABLE. It omits NOT NULL, which
// the decoder enforces.
func (sc *Schema) SQLColumns() string {
	var b strings.Builder
	for i, name := range sc.names {
		fmt.Fprintf(&b, "%s %s, ", quoteIdent(name), sc.types[i].SQL())
	}
	fmt.Fprintf(&b, "%s VARCHAR, %s BIGINT, %s INTEGER", schemas.ColExtra, schemas.ColAt, schemas.ColRecord)
	return b.String()
}

func quoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func arrowType(t project.Type) arrow.DataType {
	switch t.Kind {
	case project.Boolean:
		return arrow.FixedWidthTypes.Boolean
	case project.TinyInt:
		return arrow.PrimitiveTypes.Int8
	case project.SmallInt:
		return arrow.PrimitiveTypes.Int16
	case project.Integer:
		return arrow.PrimitiveTypes.Int32
	case project.BigInt:
		return arrow.PrimitiveTypes.Int64
	case project.Decimal:
		return &arrow.Decimal128Type{Precision: int32(t.Precision), Scale: int32(t.Scale)}
	case project.Float:
		return arrow.PrimitiveTypes.Float32
	case project.Double:
		return arrow.PrimitiveTypes.Float64
	case project.Varchar, project.UUID:
		return arrow.BinaryTypes.String
	case project.Date:
		return arrow.FixedWidthTypes.Date32
	case project.Time:
		return arrow.FixedWidthTypes.Time64us
	case project.Timestamp:
		return timestampType
	}
	panic(fmt.Sprintf("event: no such type: %d", t.Kind))
}

var timestampType = &arrow.TimestampType{Unit: arrow.Microsecond}
