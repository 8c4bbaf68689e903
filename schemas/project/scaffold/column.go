package scaffold

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/zeebo/xxh3"

	"duet/schemas/project"
)

const (
	maxDistinct = 1000 // distinct values of a column that are counted
	maxExamples = 2
)

// nullTexts are texts that often mean NULL in a column that is not text.
var nullTexts = map[string]bool{"NULL": true, "null": true, "NA": true, "N/A": true, "n/a": true, `\N`: true, "None": true, "nan": true, "NaN": true, "-": true, "?": true}

// column collects the properties of one column's values.
type column struct {
	header, name string
	rows         int            // with a value, null texts not counted
	nulls        int            // empty
	nullTexts    map[string]int // number of occurrences of each
	distinct     map[string]int // number of occurrences of each value; nil if there are too many
	unique       map[uint64]struct{}
	repeated     bool // some value occurs twice
	literal      bool // an empty text is a value: JSON has null
	examples     []string

	text, numeric, integer, boolean, uuid, jsonNumber, jsonText bool // what the values can be
	digits, decimals                                            int
	wholeZeros, negative, exponent                              bool // wholeZeros: all decimals are one zero, as in 17850.0
	commas                                                      int  // texts that are numbers with a decimal comma
	plainPoints                                                 int  // texts that are numbers with a decimal point
	formats                                                     []candidate
	firstKey, lastKey                                           int64 // least and greatest of the times
}

func newColumn(header string) *column {
	return &column{header: header, distinct: map[string]int{}, unique: map[uint64]struct{}{}, nullTexts: map[string]int{},
		numeric: true, integer: true, boolean: true, uuid: true, wholeZeros: true}
}

// add adds one value; comma says that numbers have a decimal comma.
func (c *column) add(b []byte, comma bool) {
	if len(b) == 0 && !c.literal {
		c.nulls++
		return
	}
	if !c.literal && len(b) <= 4 && nullTexts[string(b)] {
		c.nullTexts[string(b)]++
		return
	}
	c.rows++
	c.count(b)
	c.narrow(b, comma)
}

// count counts the distinct values, as long as there are few, and detects repeats.
func (c *column) count(b []byte) {
	if c.distinct != nil {
		if n, ok := c.distinct[string(b)]; ok {
			c.distinct[string(b)] = n + 1
			c.repeated, c.unique = true, nil
		} else if len(c.distinct) == maxDistinct {
			c.distinct = nil
		} else {
			c.distinct[string(b)] = 1
			if len(c.examples) < maxExamples {
				c.examples = append(c.examples, string(b))
			}
		}
	}
	if c.repeated {
		return
	}
	h := xxh3.Hash(b)
	if _, ok := c.unique[h]; ok {
		c.repeated, c.unique = true, nil
		return
	}
	c.unique[h] = struct{}{}
}

// narrow excludes the types that the value does not have.
func (c *column) narrow(b []byte, comma bool) {
	if c.text {
		return
	}
	if c.boolean && !isBoolean(b) {
		c.boolean = false
	}
	if c.uuid && !isUUID(b) {
		c.uuid = false
	}
	if c.rows == 1 {
		c.formats = candidatesFor(b)
		if len(c.formats) > 0 {
			c.firstKey, c.lastKey = c.formats[0].last, c.formats[0].last
		}
	} else if len(c.formats) > 0 {
		if c.formats = keep(c.formats, b); len(c.formats) > 0 {
			c.firstKey, c.lastKey = min(c.firstKey, c.formats[0].last), max(c.lastKey, c.formats[0].last)
		}
	}
	if c.numeric {
		c.narrowNumber(b, comma)
	}
	c.text = !c.boolean && !c.uuid && !c.numeric && len(c.formats) == 0
}

func (c *column) narrowNumber(b []byte, comma bool) {
	if comma && bytes.IndexByte(b, ',') >= 0 {
		if !commaNumber(b) {
			c.numeric = false
			return
		}
		b = pointed(nil, b)
	}
	n, ok := parseNumber(b)
	if !ok || n.padded {
		c.numeric = false
		return
	}
	c.digits, c.decimals = max(c.digits, n.digits), max(c.decimals, n.decimals)
	c.negative = c.negative || n.negative
	c.exponent = c.exponent || n.exponent
	if n.decimals > 0 {
		c.integer = false
		c.wholeZeros = c.wholeZeros && n.zeros && n.decimals == 1
	}
}

func isBoolean(b []byte) bool {
	return len(b) == 4 && strings.EqualFold(string(b), "true") || len(b) == 5 && strings.EqualFold(string(b), "false")
}

func isUUID(b []byte) bool {
	if len(b) != 36 {
		return false
	}
	for i, c := range b {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
		if dash != (c == '-') || !dash && !hex {
			return false
		}
	}
	return true
}

var (
	idName       = regexp.MustCompile(`(^|_)(id|no|nr|number|num|key|uuid|invoice|order|receipt|transaction|ticket|line|reference|ref|customer|user|account|sku|code|barcode|ean)$`)
	personName   = regexp.MustCompile(`(^|_)(customer|user|account|client|member|store|shop|country|region|city|employee|phone|zip|postcode)(_|$)`)
	moneyName    = regexp.MustCompile(`(^|_)(price|cost|amount|total|revenue|sales|turnover|value|paid|net|gross|fee|tax|discount|umsatz|preis|betrag|summe)(_|$)`)
	priceName    = regexp.MustCompile(`(^|_)(price|unitprice|preis)(_|$)`)
	totalName    = regexp.MustCompile(`(^|_)(amount|total|revenue|sales|turnover|value|paid|net|gross|umsatz|betrag|summe)(_|$)`)
	quantityName = regexp.MustCompile(`(^|_)(quantity|qty|units|pieces|menge|anzahl|stueck)(_|$)`)
	notASum      = regexp.MustCompile(`(^|_)(rate|percent|pct|lat|lon|latitude|longitude|rating|score|temperature|discount|ratio|age|year|month|day|hour|week)(_|$)`)
	dateName     = regexp.MustCompile(`(^|_)(date|time|at|on|when|day|timestamp|datum|zeit)(_|$)`)
)

// sqlType returns the column's type, and its format if times are not ISO 8601.
func (c *column) sqlType(whole bool) (t project.Type, format string) {
	if c.rows == 0 || c.text || c.jsonNumber && c.jsonText && !c.numeric {
		return project.Type{Kind: project.Varchar}, ""
	}
	if t, format, ok := c.timeType(); ok {
		return t, format
	}
	switch {
	case c.numeric:
		return c.numberType(whole), ""
	case c.boolean:
		return project.Type{Kind: project.Boolean}, ""
	case c.uuid:
		return project.Type{Kind: project.UUID}, ""
	}
	return project.Type{Kind: project.Varchar}, ""
}

func (c *column) timeType() (t project.Type, format string, ok bool) {
	best := c.bestFormat()
	if best == nil || c.numeric && (!dateName.MatchString(c.name) || c.jsonNumber) { // 20240131 may be a number
		return t, "", false
	}
	t.Kind = project.Date
	if best.hasTime {
		t.Kind = project.Timestamp
	}
	return t, best.format, true
}

// bestFormat returns ISO 8601 if it matches, else the format in which the file is
// most nearly in order; nil if none matches.
func (c *column) bestFormat() *candidate {
	var best *candidate
	for i := range c.formats {
		f := &c.formats[i]
		if f.format == "" {
			return f
		}
		if best == nil || f.inversions < best.inversions {
			best = f
		}
	}
	return best
}

// ambiguous returns the format with day and month swapped if every text matches it
// too, and whether the order of the file favours the chosen one.
func (c *column) ambiguous() (other string, byOrder bool) {
	best := c.bestFormat()
	if best == nil || best.format == "" {
		return "", false
	}
	for _, f := range c.formats {
		swapped := strings.NewReplacer("%m", "%d", "%d", "%m").Replace(best.format)
		if f.format == swapped && swapped != best.format {
			return f.format, f.inversions > best.inversions
		}
	}
	return "", false
}

// numberType returns a type with room for greater numbers in the next file.
func (c *column) numberType(whole bool) project.Type {
	money := moneyName.MatchString(c.name)
	switch {
	case c.exponent || c.decimals > 10:
		return project.Type{Kind: project.Double}
	case c.integer && money && totalOrPrice(c.name) && !quantityName.MatchString(c.name):
		return decimal(c.digits, 2)
	case c.integer || c.wholeZeros && !money:
		switch {
		case c.digits > 18:
			return project.Type{Kind: project.Decimal, Precision: 38}
		case quantityName.MatchString(c.name) && c.digits <= 8, c.digits <= 7 && !idName.MatchString(c.name) && c.decimals == 0:
			return project.Type{Kind: project.Integer}
		}
		return project.Type{Kind: project.BigInt}
	}
	scale := c.decimals
	if money {
		scale = max(scale, 2)
	}
	if !whole {
		scale = max(scale, 4) // the lines that were not read may have more
	}
	return decimal(c.digits, scale)
}

func totalOrPrice(name string) bool {
	return totalName.MatchString(name) || priceName.MatchString(name)
}

func decimal(digits, scale int) project.Type {
	t := project.Type{Kind: project.Decimal, Precision: 18, Scale: scale}
	if digits+scale > 16 {
		t.Precision = 38
	}
	return t
}

// null returns the number of rows without a value if these texts mean NULL.
func (c *column) null(texts []string) int {
	n := c.nulls
	for _, t := range texts {
		n += c.nullTexts[t]
	}
	return n
}
