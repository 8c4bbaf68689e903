package project

import (
	"errors"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// The keys of each mapping of a stream's YAML, in the order that Print writes
// them in.
var (
	streamKeys    = []string{"event_time", "id", "id_window", "future_bound", "columns", "csv"}
	eventTimeKeys = []string{"column", "zone", "day_starts"}
	columnKeys    = []string{"type", "from", "format"}
	csvKeys       = []string{"delimiter", "decimal", "encoding", "nulls"}
)

const (
	maxColumns         = 500
	defaultIDWindow    = 1_000_000
	defaultFutureBound = 24 * time.Hour
	businessDate       = "business_date"
)

// encodings maps the accepted spellings of a file's encoding to its name.
var encodings = map[string]string{
	"utf-8": "utf-8", "utf8": "utf-8", "ascii": "utf-8", "us-ascii": "utf-8",
	"latin-1": "latin-1", "latin1": "latin-1", "iso-8859-1": "latin-1", "iso8859-1": "latin-1",
	"windows-1252": "windows-1252", "cp1252": "windows-1252", "cp-1252": "windows-1252", "win1252": "windows-1252",
}

// streamFile is a stream that is being read: its document, the stream so far, and
// the nodes of its columns.
type streamFile struct {
	document
	*Stream
	places map[string]ast.Node // of columns, including those with faults
	zone   bool                // event_time has the key zone, valid or not
}

// loadStream reads streams/NAME.yaml. It returns nil after a fault.
func loadStream(file, text string, faults *Faults) *Stream {
	before := len(*faults)
	name := strings.TrimSuffix(path.Base(file), ".yaml")
	if reason, remedy := checkName("the stream's", name); reason != "" {
		*faults = append(*faults, Fault{File: file, Reason: reason, Remedy: "rename the file: " + remedy})
	}
	s := &streamFile{
		document: document{file: file, faults: faults},
		Stream: &Stream{Name: name, File: file, IDWindow: defaultIDWindow, FutureBound: defaultFutureBound,
			CSV: CSV{Delimiter: ",", Decimal: ".", Encoding: "utf-8", Nulls: []string{""}}, Lines: map[string]int{}},
		places: map[string]ast.Node{},
	}
	top, ok := s.parse(text)
	if !ok {
		return nil
	}
	entries := s.mapping(top, "the stream", streamKeys)
	byKey := map[string]entry{}
	for _, e := range entries {
		byKey[e.key] = e
		s.Lines[e.key], _ = place(e.node)
	}
	if e, ok := byKey["columns"]; ok {
		s.columns(e)
	} else {
		s.fault(nil, "columns are missing", "write columns: {name: TYPE, ...}, or begin with: duet init DIR --from FILE")
	}
	if e, ok := byKey["event_time"]; ok {
		s.eventTime(e)
	}
	if e, ok := byKey["id"]; ok {
		s.id(e)
	}
	if e, ok := byKey["id_window"]; ok {
		s.idWindow(e)
	}
	if e, ok := byKey["future_bound"]; ok {
		s.futureBound(e)
	}
	if e, ok := byKey["csv"]; ok {
		s.csv(e)
	}
	if (*faults)[before:].Fatal() {
		return nil
	}
	return s.Stream
}

func (s *streamFile) columns(e entry) {
	entries := s.mapping(e.value, "columns", nil)
	if len(entries) == 0 {
		if what := describe(e.value); what != "a mapping" && what != "empty" {
			return // mapping has reported it
		}
		s.fault(e.node, "columns are missing", "write columns: {name: TYPE, ...}")
		return
	}
	if len(entries) > maxColumns {
		s.fault(e.node, "the stream has more than 500 columns", "remove the columns that no view needs: undeclared members are kept as sent")
		return
	}
	for _, e := range entries {
		s.places[e.key] = e.node
		if reason, remedy := checkName("the column's", e.key); reason != "" {
			if better := snake(e.key); ValidName(better) && better != e.key && !strings.HasPrefix(e.key, "_duet_") {
				remedy += "; with from: " + e.key + " it is still read from there"
			}
			s.fault(e.node, reason, remedy)
		}
		c, ok := s.column(e)
		if !ok {
			continue
		}
		s.Columns = append(s.Columns, c)
	}
}

var (
	cutType  = regexp.MustCompile(`\(\s*[0-9]+$`)
	typeTail = regexp.MustCompile(`^[0-9]+\s*\)`)
)

// column reads one column in its short or long form.
func (s *streamFile) column(e entry) (Column, bool) {
	c := Column{Name: e.key, From: e.key}
	c.Line, _ = place(e.node)
	const remedy = "write TYPE or TYPE NOT NULL, or {type: ..., from: ..., format: ...}"
	if describe(e.value) != "a mapping" {
		text, ok := s.text(e, "the column "+e.key, remedy)
		return c, ok && s.columnType(e, text, &c)
	}
	if s.cutAtComma(e) {
		return c, false
	}
	typed, ok := false, true
	var format entry
	for _, e := range s.mapping(e.value, "the column "+c.Name, columnKeys) {
		text, isText := s.text(e, c.Name+"."+e.key, remedy)
		if !isText {
			ok = false
			continue
		}
		switch e.key {
		case "type":
			typed = true
			ok = s.columnType(e, text, &c) && ok
		case "from":
			c.From = text
			if strings.TrimSpace(text) == "" || len(text) > 200 {
				s.faultAtValue(e, c.Name+".from is "+quote(text), "name the CSV header, the JSON member or path, or the Parquet column")
				ok = false
			}
		case "format":
			c.Format, format = text, e
		}
	}
	if !typed {
		if ok {
			s.fault(e.node, "the column "+c.Name+" has no type", `write {type: "VARCHAR NOT NULL", ...}`)
		}
		return c, false
	}
	return c, ok && s.format(format, c)
}

func (s *streamFile) format(e entry, c Column) bool {
	if c.Format == "" {
		return true
	}
	if c.Type.Kind != Date && c.Type.Kind != Time && c.Type.Kind != Timestamp {
		s.faultAtValue(e, c.Name+" has a format, but is "+c.Type.SQL(), "formats are for DATE, TIME and TIMESTAMP: remove it")
		return false
	}
	if reason := checkFormat(c.Format, c.Type.Kind); reason != "" {
		s.faultAtValue(e, "the format "+quote(c.Format)+" "+reason, `write a strptime format such as "%d/%m/%Y %H:%M"`)
		return false
	}
	return true
}

// cutAtComma reports {type: DECIMAL(18,4), from: x}, in which YAML ends the type at
// the comma.
func (s *streamFile) cutAtComma(e entry) bool {
	m, ok := e.value.(*ast.MappingNode)
	if !ok {
		return false
	}
	for i, v := range m.Values {
		head, ok := scalar(v.Value)
		if !ok || !cutType.MatchString(head) || i+1 == len(m.Values) {
			continue
		}
		tail := m.Values[i+1].Key.GetToken().Value
		if typeTail.MatchString(tail) {
			whole := head + "," + strings.TrimSpace(tail)
			s.fault(v.Value, "within { } a comma ends the value, so the type is cut to "+quote(head), `quote it: type: "`+whole+`"`)
			return true
		}
	}
	return false
}

func (s *streamFile) columnType(e entry, text string, c *Column) bool {
	t, notNull, err := ParseColumnType(text)
	if err != nil {
		var terr *TypeError
		if errors.As(err, &terr) {
			s.faultAtValue(e, "the column "+c.Name+": "+terr.Reason, terr.Remedy)
		}
		return false
	}
	c.Type, c.NotNull = t, notNull
	return true
}

// find returns a declared column and whether it is declared. A column with faults
// of its own is declared, but nil.
func (s *streamFile) find(name string) (c *Column, known bool) {
	for i := range s.Columns {
		if s.Columns[i].Name == name {
			return &s.Columns[i], true
		}
	}
	return nil, s.places[name] != nil
}

// unknownColumn reports a reference to a column that is not declared.
func (s *streamFile) unknownColumn(at ast.Node, what, name string) {
	if len(s.places) == 0 {
		return
	}
	remedy := "the columns are " + strings.Join(keysOf(s.places), ", ")
	for _, c := range s.Columns {
		if c.From == name {
			s.fault(at, what+" is "+quote(name)+", which is not a column", "write "+c.Name+", which is read from it")
			return
		}
	}
	if near := Nearest(name, keysOf(s.places)); near != "" {
		remedy = "did you mean " + near + "?"
	}
	s.fault(at, what+" is "+quote(name)+", which is not a column", remedy)
}

func (s *streamFile) eventTime(e entry) {
	const remedy = "write event_time: COLUMN, or {column: COLUMN, zone: Europe/London, day_starts: \"04:00\"}"
	column := e
	if describe(e.value) == "a mapping" {
		column = entry{}
		var starts entry
		for _, e := range s.mapping(e.value, "event_time", eventTimeKeys) {
			switch e.key {
			case "column":
				column = e
			case "zone":
				s.setZone(e)
			case "day_starts":
				starts = e
				s.dayStarts(e)
			}
		}
		if starts.node != nil && !s.zone {
			s.fault(starts.node, "day_starts needs a zone", "add zone: Europe/London, or zone: UTC")
		}
		if column.node == nil {
			s.fault(e.node, "event_time names no column", "add column: COLUMN")
			return
		}
	}
	name, ok := s.text(column, "event_time", remedy)
	if !ok {
		return
	}
	s.EventTime = name
	s.eventColumn(column, name)
}

// eventColumn checks that the column can hold the event time and that the names of
// the columns that a zone adds are free.
func (s *streamFile) eventColumn(e entry, name string) {
	c, known := s.find(name)
	if !known {
		s.unknownColumn(e.value, "event_time", name)
	}
	if c != nil && c.Type.Kind != Timestamp {
		s.faultAtValue(e, "event_time is "+name+", which is "+c.Type.SQL(), "declare it as "+name+": TIMESTAMP NOT NULL, or name a TIMESTAMP column")
	} else if c != nil && !c.NotNull {
		s.faultAtValue(e, "event_time is "+name+", which may be NULL", "declare it as "+name+": TIMESTAMP NOT NULL; events without a time are then rejected")
	}
	if !s.zone {
		return
	}
	for _, added := range []string{name + "_local", businessDate} {
		if at := s.places[added]; at != nil {
			s.fault(at, "the column "+added+" is added to every event, because event_time has a zone", "rename yours and add from: "+added)
		}
	}
	if known && len(name)+len("_local") > 63 {
		s.faultAtValue(e, "the name "+name+"_local, which is added because event_time has a zone, is longer than 63 characters", "shorten "+name)
	}
}

func (s *streamFile) setZone(e entry) {
	s.zone = true
	const remedy = "write an IANA zone such as Europe/London, America/New_York or UTC"
	name, ok := s.text(e, "event_time.zone", remedy)
	if !ok {
		return
	}
	zone, ok := loadZone(name)
	if !ok {
		s.faultAtValue(e, quote(name)+" is not a time zone", remedy)
		return
	}
	s.Zone = zone
}

func (s *streamFile) dayStarts(e entry) {
	const remedy = `write hours and minutes, in quotes: "04:00"`
	text, ok := s.text(e, "event_time.day_starts", remedy)
	if !ok {
		return
	}
	if s.DayStarts, ok = parseDayStarts(text); !ok {
		s.faultAtValue(e, "day_starts is "+quote(text)+", not a time of the day", remedy)
	}
}

func (s *streamFile) id(e entry) {
	names, nodes, ok := s.texts(e, "id", "write id: [column, ...]")
	if !ok {
		return
	}
	if len(names) == 0 {
		s.faultAtValue(e, "id is empty", "name its columns, or remove it")
	}
	seen := map[string]bool{}
	for i, name := range names {
		if seen[name] {
			s.fault(nodes[i], "id names "+name+" twice", "remove one")
			continue
		}
		seen[name] = true
		c, known := s.find(name)
		if !known {
			s.unknownColumn(nodes[i], "id", name)
		}
		if c != nil && (c.Type.Kind == Double || c.Type.Kind == Float) {
			s.fault(nodes[i], "id holds "+name+", which is "+c.Type.SQL()+" and not exact", "declare it as BIGINT, DECIMAL or VARCHAR")
		}
	}
	s.ID = names
}

func (s *streamFile) idWindow(e entry) {
	if s.Lines["id"] == 0 {
		s.fault(e.node, "id_window has no id", "add id: [column, ...], or remove it")
	}
	if n, ok := s.integer(e, "id_window", 1, 100_000_000); ok {
		s.IDWindow = n
	}
}

func (s *streamFile) futureBound(e entry) {
	const remedy = "write a duration such as 24h or 7d, or off"
	text, ok := s.text(e, "future_bound", remedy)
	if !ok {
		return
	}
	if s.Lines["event_time"] == 0 {
		s.fault(e.node, "future_bound has no event_time", "add event_time: COLUMN, or remove it")
	}
	if strings.EqualFold(text, "off") || strings.EqualFold(text, "false") {
		s.FutureBound = 0
		return
	}
	bound, err := ParseDuration(text)
	if err != nil {
		s.faultAtValue(e, "future_bound: "+err.Error(), remedy)
		return
	}
	if bound == 0 {
		s.faultAtValue(e, "future_bound is 0", "write off for no bound, or a duration such as 24h")
	}
	s.FutureBound = bound
}

func (s *streamFile) csv(e entry) {
	for _, e := range s.mapping(e.value, "csv", csvKeys) {
		if e.key == "nulls" {
			if nulls, _, ok := s.texts(e, "csv.nulls", `write a list of texts such as ["", "NA"]`); ok {
				s.CSV.Nulls = nulls
			}
			continue
		}
		text, ok := s.text(e, "csv."+e.key, `write it in quotes, such as ","`)
		if !ok {
			continue
		}
		switch e.key {
		case "delimiter":
			s.delimiter(e, text)
		case "decimal":
			if text != "." && text != "," {
				s.faultAtValue(e, "csv.decimal is "+quote(text), `write "." or ","`)
			}
			s.CSV.Decimal = text
		case "encoding":
			name, ok := encodings[strings.ToLower(strings.TrimSpace(text))]
			if !ok {
				s.faultAtValue(e, "csv.encoding is "+quote(text), "write utf-8, latin-1 or windows-1252, or convert the file: iconv -t utf-8")
				continue
			}
			s.CSV.Encoding = name
		}
	}
}

func (s *streamFile) delimiter(e entry, text string) {
	switch strings.ToLower(text) {
	case `\t`, "tab":
		text = "\t"
	}
	r, size := utf8.DecodeRuneInString(text)
	if size != len(text) || size == 0 || r == utf8.RuneError || strings.ContainsRune("\"\r\n\x00", r) {
		s.faultAtValue(e, "csv.delimiter is "+quote(text)+", not one character", `write "," or ";" or "\t" or "|"`)
		return
	}
	s.CSV.Delimiter = text
}
