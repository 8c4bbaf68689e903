package search

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing/fstest"
	"time"
	_ "time/tzdata"

	"duet/schemas/project"
	"duet/schemas/view"
)

// stream is a stream's definition.
type stream struct {
	name    string
	columns []*column // columns[0] is the event time
	zone    *time.Location
	starts  time.Duration
	id      []int // indexes into columns
	window  int
	bounded bool // by how far an event may lie in the future
}

func newStream(r *rand.Rand, name string) *stream {
	s := &stream{name: name, bounded: chance(r, 60), window: pick(r, 5, 50, 300, 300, 1_000_000)}
	s.columns = []*column{{name: "moment", member: "moment", kind: kEvent, notNull: true}}
	for i := range 3 + r.IntN(6) {
		s.columns = append(s.columns, newColumn(r, i+1))
	}
	if chance(r, 40) {
		s.columns = append(s.columns, &column{name: "code", member: "code", kind: kCode})
	}
	if chance(r, 60) {
		zone, err := time.LoadLocation(pick(r, "Europe/London", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"))
		if err != nil {
			panic(err)
		}
		s.zone, s.starts = zone, pick(r, 0, 4*time.Hour, 23*time.Hour+59*time.Minute)
	}
	if chance(r, 60) {
		s.columns = append(s.columns, &column{name: "no", member: "no", kind: kBig, notNull: chance(r, 50)})
		s.id = []int{len(s.columns) - 1}
		if c := s.columns[1]; chance(r, 20) && c.kind != kFloat && c.kind != kDouble && c.kind != kWild {
			s.id = append(s.id, 1)
		}
	}
	return s
}

func (s *stream) yaml() string {
	var b strings.Builder
	if s.zone == nil {
		b.WriteString("event_time: moment\n")
	} else {
		fmt.Fprintf(&b, "event_time: {column: moment, zone: %s, day_starts: %q}\n", s.zone, fmt.Sprintf("%02d:%02d", int(s.starts.Hours()), int(s.starts.Minutes())%60))
	}
	if s.id != nil {
		var names []string
		for _, i := range s.id {
			names = append(names, s.columns[i].name)
		}
		fmt.Fprintf(&b, "id: [%s]\nid_window: %d\n", strings.Join(names, ", "), s.window)
	}
	fmt.Fprintf(&b, "future_bound: %s\ncolumns:\n", map[bool]string{true: "24h", false: "off"}[s.bounded])
	for _, c := range s.columns {
		t := c.sqlType()
		if c.notNull {
			t += " NOT NULL"
		}
		fmt.Fprintf(&b, "  \"%s\": {type: \"%s\", from: \"%s\"}\n", c.name, t, c.member)
	}
	return b.String()
}

// ddl returns the columns that a view sees.
func (s *stream) ddl() string {
	var cols []string
	for _, c := range s.columns {
		cols = append(cols, `"`+c.name+`" `+c.sqlType())
	}
	if s.zone != nil {
		cols = append(cols, "moment_local TIMESTAMP", "business_date DATE")
	}
	return strings.Join(cols, ", ")
}

func (s *stream) some(r *rand.Rand, ok func(*column) bool) string {
	var names []string
	for _, c := range s.columns {
		if ok(c) {
			names = append(names, c.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return pick(r, names...)
}

// definitions is a project at one time.
type definitions struct {
	streams []*stream
	views   map[string]*viewSpec
	serial  int // of the next view's name
}

func (d *definitions) clone() *definitions {
	return &definitions{streams: slices.Clone(d.streams), views: maps.Clone(d.views), serial: d.serial}
}

func (d *definitions) names() []string { return slices.Sorted(maps.Keys(d.views)) }

func (d *definitions) stream(name string) *stream {
	for _, s := range d.streams {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (d *definitions) files() map[string]string {
	files := map[string]string{"duet.yaml": "version: 1\nname: search\nbatch: {incremental: \"off\", full: \"off\"}\nlimits: {memory: 1GB, batch_memory: 1GB, log: 1GB}\n"}
	for _, s := range d.streams {
		files["streams/"+s.name+".yaml"] = s.yaml()
	}
	for name, v := range d.views {
		files["views/"+name+".sql"] = v.user(v.all(), "") + "\n"
	}
	return files
}

func (d *definitions) folder() fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range d.files() {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

// fill adds random views until there are n. It skips views that the compiler
// refuses, and fails if it refuses many, because the generator writes valid ones.
func (d *definitions) fill(r *rand.Rand, n int) error {
	refused := []string{}
	for len(d.views) < n {
		s := pick(r, d.streams...)
		v := newViewSpec(r, s)
		name := fmt.Sprintf("v%d", d.serial)
		next := d.clone()
		next.views[name] = v
		if err := next.compile(name); err != nil {
			if refused = append(refused, err.Error()); len(refused) > 20 {
				return fmt.Errorf("the compiler refuses what it should take:\n%s", strings.Join(refused, "\n"))
			}
			continue
		}
		d.views[name] = v
		d.serial++
	}
	return nil
}

// compile checks one view.
func (d *definitions) compile(name string) error {
	p, faults := project.Load(d.folder())
	if faults.Fatal() {
		return fmt.Errorf("%w\n%v", faults, d.files())
	}
	c, err := view.NewCompiler(p.Streams)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, v := range p.Views {
		if v.Name != name {
			continue
		}
		if compiled, found := c.Compile(v); compiled == nil {
			return fmt.Errorf("%s\n%w", v.SQL, project.Faults(found))
		}
	}
	return nil
}
