package project

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// kindNames are the names that DuckDB prints, by Kind.
var kindNames = [...]string{
	Boolean: "BOOLEAN", TinyInt: "TINYINT", SmallInt: "SMALLINT", Integer: "INTEGER", BigInt: "BIGINT",
	Decimal: "DECIMAL", Float: "FLOAT", Double: "DOUBLE", Varchar: "VARCHAR", Date: "DATE", Time: "TIME",
	Timestamp: "TIMESTAMP", UUID: "UUID",
}

// typeNames are DuckDB's names and aliases of the types that a column may have.
var typeNames = map[string]Kind{
	"BOOLEAN": Boolean, "BOOL": Boolean, "LOGICAL": Boolean,
	"TINYINT": TinyInt, "INT1": TinyInt,
	"SMALLINT": SmallInt, "INT2": SmallInt, "SHORT": SmallInt, "INT16": SmallInt,
	"INTEGER": Integer, "INT": Integer, "INT4": Integer, "SIGNED": Integer, "INTEGRAL": Integer, "INT32": Integer,
	"BIGINT": BigInt, "INT8": BigInt, "LONG": BigInt, "OID": BigInt, "INT64": BigInt,
	"DECIMAL": Decimal, "NUMERIC": Decimal, "DEC": Decimal,
	"FLOAT": Float, "FLOAT4": Float, "REAL": Float,
	"DOUBLE": Double, "FLOAT8": Double, "DOUBLE PRECISION": Double,
	"VARCHAR": Varchar, "TEXT": Varchar, "STRING": Varchar, "CHAR": Varchar, "BPCHAR": Varchar, "NVARCHAR": Varchar,
	"CHARACTER VARYING": Varchar, "CHARACTER": Varchar,
	"DATE": Date,
	"TIME": Time, "TIME WITHOUT TIME ZONE": Time,
	"TIMESTAMP": Timestamp, "DATETIME": Timestamp, "TIMESTAMP_US": Timestamp, "TIMESTAMP WITHOUT TIME ZONE": Timestamp,
	"UUID": UUID, "GUID": UUID,
}

// refusedTypes maps DuckDB's other types to what to write instead.
var refusedTypes = map[string]string{
	"HUGEINT": "DECIMAL(38,0)", "INT128": "DECIMAL(38,0)", "UHUGEINT": "DECIMAL(38,0)", "UINT128": "DECIMAL(38,0)",
	"UTINYINT": "SMALLINT", "UINT8": "SMALLINT", "USMALLINT": "INTEGER", "UINT16": "INTEGER",
	"UINTEGER": "BIGINT", "UINT32": "BIGINT", "UBIGINT": "DECIMAL(20,0)", "UINT64": "DECIMAL(20,0)",
	"BIGNUM": "DECIMAL(38,0)", "VARINT": "DECIMAL(38,0)",
	"MONEY": "DECIMAL(18,4)", "NUMBER": "DECIMAL(18,4), or BIGINT for whole numbers",
	"TIMESTAMPTZ": "TIMESTAMP: values with an offset become UTC", "TIMESTAMP WITH TIME ZONE": "TIMESTAMP: values with an offset become UTC",
	"TIMESTAMP_S": "TIMESTAMP", "TIMESTAMP_MS": "TIMESTAMP", "TIMESTAMP_NS": "TIMESTAMP, which holds microseconds",
	"TIMETZ": "TIME", "TIME WITH TIME ZONE": "TIME", "TIME_NS": "TIME",
	"BLOB": "VARCHAR", "BYTEA": "VARCHAR", "BINARY": "VARCHAR", "VARBINARY": "VARCHAR", "BIT": "VARCHAR", "BITSTRING": "VARCHAR",
	"INTERVAL": "BIGINT, in microseconds", "JSON": "VARCHAR", "ENUM": "VARCHAR",
	"STRUCT": "one column a member, with from: parent.member", "ROW": "one column a member, with from: parent.member",
	"MAP": "one column a member, with from: parent.member", "LIST": "one event an element, or VARCHAR",
	"UNION": "VARCHAR", "VARIANT": "VARCHAR", "GEOMETRY": "VARCHAR",
}

var typePattern = regexp.MustCompile(`^([A-Z][A-Z0-9_ ]*?)\s*(?:\(\s*([0-9]{1,4})\s*(?:,\s*([0-9]{1,4})\s*)?\))?$`)

// TypeError reports why a text is not the type of a column.
type TypeError struct {
	Reason string
	Remedy string // what to write instead
}

func (e *TypeError) Error() string { return e.Reason + ". " + e.Remedy }

// ParseType parses a SQL type such as "DECIMAL(18,4)", "numeric(10)" or "text", by
// DuckDB's names and aliases, ignoring case. The error is a *TypeError.
func ParseType(text string) (Type, error) {
	name := strings.ToUpper(strings.Join(strings.Fields(text), " "))
	if strings.Contains(name, "[") {
		return Type{}, &TypeError{fmt.Sprintf("%s is a list; a column holds one value", text), "write " + refusedTypes["LIST"]}
	}
	m := typePattern.FindStringSubmatch(name)
	if m == nil {
		return Type{}, unknownType(text, name)
	}
	kind, ok := typeNames[m[1]]
	if !ok {
		return Type{}, unknownType(text, m[1])
	}
	if kind == Decimal {
		return decimalType(text, m[2], m[3])
	}
	if m[2] != "" {
		remedy := "write " + kindNames[kind]
		if kind == Varchar {
			remedy += "; lengths are not checked"
		}
		return Type{}, &TypeError{text + " has a parameter, but " + kindNames[kind] + " takes none", remedy}
	}
	return Type{Kind: kind}, nil
}

// decimalType returns a DECIMAL with DuckDB's defaults: DECIMAL is (18,3),
// DECIMAL(p) is (p,0).
func decimalType(text, precision, scale string) (Type, error) {
	t := Type{Kind: Decimal, Precision: 18, Scale: 3}
	if precision != "" {
		t.Precision, _ = strconv.Atoi(precision)
		t.Scale = 0
	}
	if scale != "" {
		t.Scale, _ = strconv.Atoi(scale)
	}
	switch {
	case t.Precision < 1 || t.Precision > 38:
		return Type{}, &TypeError{fmt.Sprintf("%s has %d digits; a DECIMAL has 1 to 38", text, t.Precision), "write DECIMAL(18,4) or DECIMAL(38,4)"}
	case t.Scale > t.Precision:
		return Type{}, &TypeError{fmt.Sprintf("%s has more decimals than digits", text), fmt.Sprintf("write DECIMAL(%d,%d)", min(38, t.Precision+t.Scale), min(t.Scale, 38))}
	}
	return t, nil
}

// unknownType returns the error for a type that a column cannot have.
func unknownType(text, name string) *TypeError {
	base := name
	if i := strings.IndexAny(base, "( "); i > 0 && refusedTypes[base] == "" {
		base = base[:i]
	}
	if instead := refusedTypes[base]; instead != "" {
		return &TypeError{text + " is not a type of a stream's column", "write " + instead}
	}
	remedy := "write one of " + strings.Join(kindNames[1:], ", ")
	if near := Nearest(base, keysOf(typeNames)); near != "" {
		remedy = "did you mean " + near + "?"
	}
	if text == "" {
		return &TypeError{"the type is missing", remedy}
	}
	return &TypeError{strconv.Quote(text) + " is not a SQL type", remedy}
}

// ParseColumnType parses the short form of a column: TYPE [NOT NULL] or TYPE NULL.
// The error is a *TypeError.
func ParseColumnType(text string) (t Type, notNull bool, err error) {
	fields := strings.Fields(text)
	n := len(fields)
	if n > 0 && strings.EqualFold(fields[n-1], "NULL") {
		n--
		if n > 0 && strings.EqualFold(fields[n-1], "NOT") {
			n--
			notNull = true
		}
	}
	for _, word := range []string{"PRIMARY", "UNIQUE", "DEFAULT", "CHECK", "REFERENCES"} {
		for _, f := range fields[:n] {
			if strings.EqualFold(f, word) {
				remedy := "write TYPE or TYPE NOT NULL"
				if word == "PRIMARY" || word == "UNIQUE" {
					remedy += "; columns that identify an event are declared as id: [column, ...]"
				}
				return Type{}, false, &TypeError{word + " is not part of a column here", remedy}
			}
		}
	}
	t, err = ParseType(strings.Join(fields[:n], " "))
	return t, notNull, err
}

// SQL returns the type as DuckDB prints it: "DECIMAL(18,4)", "TIMESTAMP".
func (t Type) SQL() string {
	if t.Kind == Decimal {
		return fmt.Sprintf("DECIMAL(%d,%d)", t.Precision, t.Scale)
	}
	if int(t.Kind) < len(kindNames) && t.Kind != 0 {
		return kindNames[t.Kind]
	}
	return fmt.Sprintf("Kind(%d)", t.Kind)
}

// String returns the same as SQL.
func (t Type) String() string { return t.SQL() }

// Numeric reports whether values of the type are numbers.
func (t Type) Numeric() bool { return t.Kind >= TinyInt && t.Kind <= Double }

// Exact reports whether sums of the type are exact: every number but FLOAT and DOUBLE.
func (t Type) Exact() bool { return t.Kind >= TinyInt && t.Kind <= Decimal }

// SQL returns the column's short form: "DECIMAL(18,4) NOT NULL".
func (c Column) SQL() string {
	if c.NotNull {
		return c.Type.SQL() + " NOT NULL"
	}
	return c.Type.SQL()
}
