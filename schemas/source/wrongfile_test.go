package source

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"duet/schemas/event"
)

const visits = "columns:\n  visit: BIGINT\n  page: VARCHAR\n  seconds: INTEGER\n"

// A file of another stream is refused in one sentence, whatever its format, and even if
// every column may be NULL.
func TestAFileOfAnotherStreamIsOneSentence(t *testing.T) {
	s := stream(t, visits)
	var many []string
	for i := range 30 {
		many = append(many, fmt.Sprintf("c%d", i))
	}
	for _, c := range []struct{ name, text, want string }{
		{"f.csv", "sku,price\n1,2\n", "f.csv:1: none of the 3 columns of stream s is in the header; it has sku, price. Check that the file belongs to this stream. If it does, name its columns with from: in streams/s.yaml:2"},
		{"f.csv", strings.Join(many, ",") + "\n", "f.csv:1: none of the 3 columns of stream s is in the header; it has c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19 and 10 more. "},
		{"f.ndjson", "\n{\"sku\":1}\nbad\n{\"price\":{\"visit\":1}}\n", "f.ndjson:2: none of the 3 columns of stream s is in the first 2 records; they have price, sku. "},
		{"f.ndjson", `{"sku":1}`, "f.ndjson:1: none of the 3 columns of stream s is in the first record; it has sku. "},
	} {
		if got := openError(t, c.text, c.name, s); !strings.HasPrefix(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%q: %s\nwant %s", c.text, got, c.want)
		}
	}
	parquet := everyType(t, 1)
	_, err := Open(onDisk(t, parquet), s, Options{Name: "f.parquet"})
	if want := "f.parquet:1: none of the 3 columns of stream s is in the file; it has "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
}

// A file that has one of the columns, or columns that are named alike, is read, or its
// missing columns are named one by one.
func TestAFileWithAColumnOfTheStreamIsRead(t *testing.T) {
	for _, c := range []struct{ yaml, name, text string }{
		{visits, "f.csv", "page,x,y\n/,1,2\n"},
		{visits, "f.ndjson", "{\"x\":1}\n{\"y\":2}\n{\"page\":\"/\"}\n"},
		{visits, "f.ndjson", "{}\n"},
		{visits, "f.ndjson", "no JSON\n"},
		{visits, "f.ndjson", ""},
		{"columns: {a: {type: VARCHAR, from: shop.address.city}, b: VARCHAR}", "f.ndjson", `{"shop":{}}`},
		{"columns: {a: {type: VARCHAR, from: shop.city}, b: VARCHAR}", "f.ndjson", `{"shop.city":"York"}`},
	} {
		r, err := Open(strings.NewReader(c.text), stream(t, c.yaml), Options{Name: c.name})
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		r.Close()
	}
}

// The last line of a truncated file is rejected, unless the cut cannot be seen: in a CSV
// file, after the last delimiter or where a quote may close the last field.
func TestATruncatedLastLineIsRejected(t *testing.T) {
	s := stream(t, "columns:\n  id: BIGINT NOT NULL\n  page: VARCHAR\n  at: TIMESTAMP\n  note: VARCHAR\n")
	d := event.NewDecoder(event.NewSchema(s))
	for _, c := range []struct {
		name, head, last string
		unseen           []int // cuts that cannot be seen
	}{
		{"f.csv", "id,page,at,note\n", `17,"a,b",2026-01-02 03:04:05,"a ""note"`, []int{29, 33}},
		{"f.csv", "id,page,at,note\n", `17,a,2026-01-02 03:04:05,`, nil},
		{"f.ndjson", "{\"id\":1}\n", `{"id":17,"page":"a","at":"2026-01-02 03:04:05","note":"é"}`, nil},
	} {
		for n := 1; n < len(c.last); n++ {
			if slices.Contains(c.unseen, n) {
				continue
			}
			r, err := Open(strings.NewReader(c.head+c.last[:n]), s, Options{Name: c.name})
			if err != nil {
				t.Fatal(err)
			}
			var last Record
			for err == nil {
				var rec Record
				if rec, err = r.Next(); err == nil {
					last = rec
				}
			}
			r.Close()
			if err != io.EOF || last.Line != 2 {
				t.Fatalf("%q: line %d, %v", c.last[:n], last.Line, err)
			}
			if values, reject := d.Decode(last.JSON, time.Now()); reject == nil {
				t.Errorf("%s: the truncated line %q is accepted as %q", c.name, c.last[:n], values)
			}
		}
	}
}
