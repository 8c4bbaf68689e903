package project

import (
	"testing"
	"time"
)

func TestParseTypeKnowsDuckDBsNames(t *testing.T) {
	for text, want := range map[string]string{
		"int": "INTEGER", "INT4": "INTEGER", "text": "VARCHAR", "String": "VARCHAR", "NUMERIC(10,2)": "DECIMAL(10,2)", "numeric ( 10 , 2 )": "DECIMAL(10,2)",
		"DECIMAL": "DECIMAL(18,3)", "dec(9)": "DECIMAL(9,0)", "datetime": "TIMESTAMP", "TIMESTAMP  WITHOUT TIME ZONE": "TIMESTAMP", "double precision": "DOUBLE",
		"real": "FLOAT", "bool": "BOOLEAN", "long": "BIGINT", "int8": "BIGINT", "int1": "TINYINT", "short": "SMALLINT", "guid": "UUID", "time": "TIME", "DECIMAL(38,38)": "DECIMAL(38,38)",
	} {
		got, err := ParseType(text)
		if err != nil || got.String() != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
		if again, err := ParseType(got.SQL()); err != nil || again != got {
			t.Errorf("%s does not read back: %v", got.SQL(), err)
		}
	}
	for _, text := range []string{"", "INTEGERS[", "DECIMAL(0,0)", "DECIMAL(39)", "DECIMAL()", "STRUCT(a INT)", "MAP(INT, INT)", "ENUM('a')", "int(3)", "DECIMAL(18,4", "NOT NULL"} {
		if got, err := ParseType(text); err == nil {
			t.Errorf("%q gave %v", text, got)
		}
	}
	typ, notNull, err := ParseColumnType(" decimal(18, 4)  not  null ")
	if err != nil || !notNull || typ.SQL() != "DECIMAL(18,4)" {
		t.Error(typ, notNull, err)
	}
}

func TestSizesAndDurationsReadBack(t *testing.T) {
	for text, want := range map[string]int64{"4GB": 4e9, "512 mb": 512e6, "1GiB": 1 << 30, "1.5KB": 1500, "7B": 7} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %d %v", text, got, err)
		}
		if again, err := ParseSize(FormatSize(got)); err != nil || again != got {
			t.Errorf("%s does not read back", FormatSize(got))
		}
	}
	for _, text := range []string{"", "4", "-1GB", "GB", "4G", "1e3MB", "999999999999TB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q gave %d", text, got)
		}
	}
	for _, d := range []time.Duration{0, time.Second, 90 * time.Second, 10 * time.Minute, 24 * time.Hour, 7 * 24 * time.Hour, time.Hour + time.Second} {
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Errorf("%v prints as %s and reads as %v", d, FormatDuration(d), got)
		}
	}
}

func TestParseScheduleIsUTC(t *testing.T) {
	s, err := ParseSchedule("30 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	next := s.Next(time.Date(2024, 3, 31, 0, 0, 0, 0, time.UTC))
	if !next.Equal(time.Date(2024, 3, 31, 2, 30, 0, 0, time.UTC)) {
		t.Error(next)
	}
	for _, text := range []string{"TZ=UTC", "CRON_TZ=", "* * *", "@every", "@every x", "@noon"} {
		if s, err := ParseSchedule(text); err == nil {
			t.Errorf("%q gave %v", text, s)
		}
	}
	if s, err := ParseSchedule("off"); s != nil || err != nil {
		t.Error(s, err)
	}
}
