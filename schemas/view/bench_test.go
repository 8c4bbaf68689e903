package view

import "testing"

func BenchmarkCompile(b *testing.B) {
	c := newCompiler(b)
	for b.Loop() {
		if v, faults := c.Compile(viewOf("SELECT time_bucket(INTERVAL '1 hour', sold_at) AS hour, country, sum(price) AS revenue, count(*) AS lines, avg(price) AS p FROM orders WHERE quantity > 0 GROUP BY ALL")); v == nil {
			b.Fatal(faults)
		}
	}
}

func BenchmarkFinalSQL(b *testing.B) {
	c := newCompiler(b)
	v := mustCompile(b, c, optionsView)
	for name, o := range map[string]Options{"plain": {}, "conditions": {Where: "country = 'UK'", Having: "lines > 3"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := v.FinalSQL("cells", o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
