package event

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"duet/internal/base/duck"
	"duet/schemas/project"
)

func TestCivilIsTheGregorianCalendar(t *testing.T) {
	at := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	for days := at.Unix() / 86_400; at.Year() < 10_001; days++ {
		y, m, d := at.Date()
		if civil(y, int(m), d) != days || d > daysIn(y, int(m)) {
			t.Fatalf("%v is day %d, not %d", at, civil(y, int(m), d), days)
		}
		at = at.Add(24 * time.Hour)
	}
}

// The conversions in both directions agree with the reference, which tries all
// offsets, around every clock change.
func TestZonesAgreeWithTheReference(t *testing.T) {
	for _, name := range []string{"Europe/London", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "Asia/Kathmandu", "America/Sao_Paulo"} {
		loc := mustZone(name)
		z := newZone(loc)
		r := rand.New(rand.NewPCG(5, 5))
		var changes []int64
		for at := time.Date(1880, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2060; {
			_, end := at.In(loc).ZoneBounds()
			if end.IsZero() {
				break
			}
			if !end.After(at) { // Go's mistake about 31 December of leap years; see zone.at
				end = at.Add(24 * time.Hour)
			}
			changes = append(changes, end.Unix())
			at = end
		}
		for range 1500 {
			wall := changes[r.IntN(len(changes))] + r.Int64N(200_000) - 100_000
			if r.IntN(4) == 0 {
				wall = r.Int64N(4_000_000_000) - 1_000_000_000
			}
			w := time.Unix(wall, 0).UTC()
			want := refZoned(w, loc)
			if got := z.utc(wall * second); got != want.UnixMicro() {
				t.Fatalf("%s: %v is %v, not %v", name, w, time.UnixMicro(got).UTC(), want)
			}
			_, offset := w.In(loc).Zone()
			if got := z.local(wall*second + 7); got != (wall+int64(offset))*second+7 {
				t.Fatalf("%s: at %v the clock shows %v", name, w, time.UnixMicro(got).UTC())
			}
		}
	}
}

// Formats that DuckDB and Duet both support.
var formats = []string{
	"%m/%d/%Y %H:%M", "%d.%m.%y %H:%M:%S", "%Y%m%d", "%Y-%m-%dT%H:%M:%S.%f", "%-d %b %Y, %-I:%M %p", "%B %d %Y",
	"%Y-%j", "%a %d %b %Y %H:%M:%S", "%A, %d %B %Y", "%d/%m/%Y %H:%M:%S %z", "%Y-%m-%d %H:%M:%S%z", "100%% %Y-%m-%d",
	"%c", "%x %X", "%-m/%-d/%-y %-H:%-M:%-S", "%b %d %Y %I %p", "%Y %m %d %H %M %S %f", "%Y-%m-%d %H:%M %Z",
}

// DuckDB's strptime reads every accepted text as the same instant, and every text
// that its strftime writes is accepted.
func TestFormatsMeanWhatDuckDBSays(t *testing.T) {
	db, err := duck.Open(duck.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	r := rand.New(rand.NewPCG(11, 11))
	for _, format := range formats {
		if err := CheckFormat(project.Timestamp, format); err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		f := compileFormat(project.Timestamp, format)
		fn := fmt.Sprintf("try_strptime(x, %s)", duck.Literal(format))
		written := written(t, db, format, r)
		texts := append([]string(nil), written...)
		for _, w := range written {
			for range 8 {
				texts = append(texts, damage(r, w))
			}
		}
		rows, err := db.QueryContext(ctx, "SELECT epoch_us("+fn+"), x FROM (SELECT unnest("+duck.Literals(texts)+") AS x)")
		if err != nil {
			t.Fatal(err)
		}
		accepted := 0
		for i := 0; rows.Next(); i++ {
			var want *int64
			var text string
			if err := rows.Scan(&want, &text); err != nil {
				t.Fatal(err)
			}
			var s stamp
			v := f.parse([]byte(text), &s)
			if v != exact {
				if i < len(written) {
					t.Errorf("%s: %q is refused", format, text)
				}
				continue
			}
			accepted++
			got := s.wall() - s.offset*second
			if want == nil && strings.Contains(format, "%f") && strings.HasSuffix(text, "0") {
				continue // more than six digits, zeros: DuckDB refuses them
			}
			if want == nil || *want != got {
				t.Errorf("%s: %q is %s, DuckDB has %v", format, text, formatMicros(got), show(want))
			}
		}
		rows.Close()
		if accepted < len(written) {
			t.Errorf("%s: %d of %d accepted", format, accepted, len(texts))
		}
	}
}

func show(micros *int64) string {
	if micros == nil {
		return "nothing"
	}
	return formatMicros(*micros)
}

// written returns what DuckDB's strftime makes of random times.
func written(t *testing.T, db *duck.DB, format string, r *rand.Rand) (texts []string) {
	from := strings.NewReplacer("%z", "+01:30", "%Z", "UTC").Replace(format)
	for range 40 {
		at := time.UnixMicro(r.Int64N(2_000_000_000_000_000)).UTC()
		var text string
		q := fmt.Sprintf("SELECT strftime(TIMESTAMP '%s', %s)", at.Format("2006-01-02 15:04:05.000000"), duck.Literal(from))
		if err := db.QueryRow(q).Scan(&text); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return texts
}

// damage changes one character.
func damage(r *rand.Rand, s string) string {
	i := r.IntN(len(s))
	c := string("0123456789/:-+. aAzZ"[r.IntN(20)])
	switch r.IntN(3) {
	case 0:
		return s[:i] + c + s[i+1:]
	case 1:
		return s[:i] + s[i+1:]
	}
	return s[:i] + c + s[i:]
}

func TestCheckFormatSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		kind   project.Kind
		format string
		why    string // "" is fine
	}{
		{project.Timestamp, "%m/%d/%Y %H:%M", ""},
		{project.Timestamp, "%s", ""},
		{project.Date, "%d.%m.%Y", ""},
		{project.Time, "%I:%M %p", ""},
		{project.Varchar, "%Y", "only a DATE, TIME or TIMESTAMP has a format"},
		{project.Timestamp, "%Y-%m", "a date needs a year, a month and a day, or a year and %j"},
		{project.Timestamp, "%Y-%m-%d %M", "minutes need hours, seconds need minutes, fractions need seconds"},
		{project.Timestamp, "%Y-%m-%d %I", "%I needs %p, and %p needs %I"},
		{project.Timestamp, "%Y-%m-%d %H %H", "%H occurs twice"},
		{project.Timestamp, "%Y-%m-%d %H %I %p", "two specifiers give the same part of the time"},
		{project.Timestamp, "%Y-%j-%d", "%j gives the month and the day; remove %m, %b, %B and %d"},
		{project.Timestamp, "%Y %", "it ends with a single %; write %% for a percent sign"},
		{project.Timestamp, "%Y %Q", "%Q is not a specifier"},
		{project.Timestamp, "%s %z", "%s must be the only specifier, of a TIMESTAMP"},
		{project.Time, "%Y %H", "a TIME has no date and no zone"},
		{project.Time, "%M", "minutes need hours, seconds need minutes, fractions need seconds"},
		{project.Date, "%Y-%m-%d %z", "a DATE has no zone"},
	} {
		err := CheckFormat(c.kind, c.format)
		if got := fmt.Sprint(err); err != nil && got != c.why || err == nil && c.why != "" {
			t.Errorf("%s: %q, not %q", c.format, got, c.why)
		}
	}
}

func TestFormatsByHand(t *testing.T) {
	for _, c := range []struct {
		kind                 project.Kind
		format, text, answer string
	}{
		{project.Timestamp, "%m/%d/%Y %H:%M", "12/1/2010 8:26", "2010-12-01 08:26:00"},
		{project.Timestamp, "%m/%d/%Y", "12/1/10", "refused"}, // not the year 10
		{project.Timestamp, "%m/%d/%y", "12/1/68", "2068-12-01 00:00:00"},
		{project.Timestamp, "%m/%d/%y", "12/1/69", "1969-12-01 00:00:00"},
		{project.Timestamp, "%a %d %m %Y", "Wed 1 12 2010", "2010-12-01 00:00:00"},
		{project.Timestamp, "%a %d %m %Y", "Thu 1 12 2010", "refused"},
		{project.Timestamp, "%u %d %m %Y", "3 1 12 2010", "2010-12-01 00:00:00"},
		{project.Timestamp, "%Y-%m-%d %I:%M %p", "2010-12-01 12:05 AM", "2010-12-01 00:05:00"},
		{project.Timestamp, "%Y-%m-%d %I:%M %p", "2010-12-01 12:05 pm", "2010-12-01 12:05:00"},
		{project.Timestamp, "%Y-%m-%d %H:%M:%S.%f", "2010-12-01 12:05:01.1234560", "2010-12-01 12:05:01.123456"},
		{project.Timestamp, "%Y-%m-%d %H:%M:%S.%f", "2010-12-01 12:05:01.1234561", "refused"},
		{project.Timestamp, "%Y-%j", "2010-366", "refused"},
		{project.Timestamp, "%Y-%j", "2012-366", "2012-12-31 00:00:00"},
		{project.Timestamp, "%s", "1291191960", "2010-12-01 08:26:00"},
		{project.Timestamp, "%s", "-1", "1969-12-31 23:59:59"},
		{project.Timestamp, "%s", "1.5", "refused"},
		{project.Timestamp, "%Y-%m-%d %H:%M %Z", "2010-12-01 12:05 GMT", "2010-12-01 12:05:00"},
		{project.Timestamp, "%Y-%m-%d %H:%M %Z", "2010-12-01 12:05 CET", "refused"},
		{project.Timestamp, "%F %T", "2010-12-01 08:26:05", "2010-12-01 08:26:05"},
		{project.Timestamp, "%D %R", "12/01/10 08:26", "2010-12-01 08:26:00"},
		{project.Time, "%H%M", "0805", "1970-01-01 08:05:00"},
	} {
		var s stamp
		got := "refused"
		if compileFormat(c.kind, c.format).parse([]byte(c.text), &s) == exact {
			got = formatMicros(s.wall() - s.offset*second)
		}
		if got != c.answer {
			t.Errorf("%s: %q is %s, not %s", c.format, c.text, got, c.answer)
		}
	}
}

// A format that cannot be used rejects every value with that reason.
func TestUnusableFormatRejects(t *testing.T) {
	s := retailStream()
	s.Columns[7].Format = "%Y"
	_, r := NewDecoder(NewSchema(s)).Decode(retailRecords(1)[0], logTime)
	if r == nil || !strings.Contains(r.Reason, "the format %Y cannot be used: a date needs") {
		t.Fatalf("got %+v", r)
	}
}
