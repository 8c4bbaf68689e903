package search

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"duet/schemas"
)

// record is one record: what is sent, and its values if it is accepted.
type record struct {
	line      []byte
	bad       bool
	retryable bool    // rejected only for now: its time lies too far ahead
	values    []value // by column
	poison    bool
}

// ledger is the model of a stream's sequencer.
type ledger struct {
	account schemas.Account
	ids     []string        // of accepted events that have one, in order
	place   map[string]int  // of an id's last acceptance in ids
	poison  int64           // position of the first raising event; 0 if there is none
	lines   map[string]bool // by chunk and digest: whether the line is known
	recent  []record        // some accepted ones, to be sent again
}

func newLedger() *ledger { return &ledger{place: map[string]int{}, lines: map[string]bool{}} }

// known reports whether an id is among the last n; if not, it adds the id.
func (l *ledger) known(id string, n int) bool {
	if at, ok := l.place[id]; ok && at >= len(l.ids)-n {
		return true
	}
	l.place[id] = len(l.ids)
	l.ids = append(l.ids, id)
	return false
}

// idOf returns an event's id; ok is false if it has none.
func (s *stream) idOf(values []value) (id string, ok bool) {
	var parts []string
	for _, i := range s.id {
		if values[i].null {
			parts = append(parts, "N")
			continue
		}
		ok = true
		parts = append(parts, "V"+values[i].text)
	}
	return strings.Join(parts, "\x00"), ok
}

// newRecord returns a random record with one of ids ids.
func (s *stream) newRecord(r *rand.Rand, now time.Time, ids int, badPercent, poisonPermille int) record {
	rec := record{values: make([]value, len(s.columns))}
	for i, c := range s.columns {
		switch {
		case c.kind == kEvent:
			rec.values[i] = s.instant(r, now)
		case c.name == "no":
			rec.values[i] = value{null: !c.notNull && chance(r, 40), json: "null"}
			if !rec.values[i].null {
				n := fmt.Sprint(r.IntN(ids))
				rec.values[i] = value{text: n, json: pick(r, n, quote(n), n+".0")}
			}
		case c.kind == kCode && r.IntN(1000) < poisonPermille:
			rec.values[i], rec.poison = value{text: "x12", json: `"x12"`}, true
		default:
			rec.values[i] = c.good(r)
		}
	}
	if r.IntN(100) < badPercent {
		rec.bad = true
		s.malformed(r, &rec)
		return rec
	}
	rec.line = s.encode(r, rec.values)
	return rec
}

// encode writes a record's members in random order, sometimes with undeclared
// members.
func (s *stream) encode(r *rand.Rand, values []value) []byte {
	var members []string
	for _, i := range r.Perm(len(values)) {
		if v := values[i]; v.json != "" {
			members = append(members, quote(s.columns[i].member)+pick(r, ":", ": ")+v.json)
		}
	}
	if chance(r, 5) {
		members = append(members, pick(r, `"more":{"deep":[1,2.50,"x"]}`, `"":null`, `"_x":-0.0`))
	}
	return []byte("{" + strings.Join(members, pick(r, ",", " , ")) + "}")
}

// malformed makes rec a record that is rejected.
func (s *stream) malformed(r *rand.Rand, rec *record) {
	if s.bounded && chance(r, 10) {
		rec.retryable, rec.values[0].json = true, `"9990-01-01T00:00:00Z"`
		rec.line = s.encode(r, rec.values)
		return
	}
	rec.line = s.broken(r, rec.values)
}

func (s *stream) broken(r *rand.Rand, values []value) []byte {
	line := s.encode(r, values)
	switch r.IntN(10) {
	case 0:
		return line[:len(line)-1]
	case 1:
		return []byte(pick(r, "[]", "null", "{", `{"moment"}`, "not json", "\xff\xfe", `{"moment":NaN}`))
	case 2:
		return append(line[:len(line)-1:len(line)-1], `,"moment":"2026-01-01T00:00:00Z"}`...)
	case 3:
		return append(line, " {}"...)
	case 4:
		return append(line[:len(line)-1:len(line)-1], `,"deep":`+strings.Repeat("[", 64)+strings.Repeat("]", 64)+"}"...)
	case 5:
		return append(line[:len(line)-1:len(line)-1], ",\"broken\":\"\xc3\"}"...)
	}
	i := r.IntN(len(values))
	values[i].json = s.columns[i].bad(r)
	return s.encode(r, values)
}

// row returns an accepted event as a row of SQL VALUES.
func (s *stream) row(rec record, at, no int64) string {
	var b bytes.Buffer
	b.WriteByte('(')
	for i, v := range rec.values {
		if i > 0 {
			b.WriteByte(',')
		}
		if v.null {
			b.WriteString("NULL")
			continue
		}
		b.WriteString("'" + strings.ReplaceAll(v.text, "'", "''") + "'")
	}
	if s.zone != nil {
		utc, err := time.Parse("2006-01-02 15:04:05.999999", rec.values[0].text)
		if err != nil {
			panic(err)
		}
		wall := utc.In(s.zone)
		local := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), time.UTC)
		fmt.Fprintf(&b, ",'%s','%s'", local.Format("2006-01-02 15:04:05.999999"), local.Add(-s.starts).Format("2006-01-02"))
	}
	fmt.Fprintf(&b, ",%d,%d)", at, no)
	return b.String()
}
