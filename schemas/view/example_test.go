package view_test

import (
	"fmt"

	"duet/schemas/project"
	"duet/schemas/view"
)

func Example() {
	stream := &project.Stream{Name: "orders", File: "streams/orders.yaml", EventTime: "sold_at", Columns: []project.Column{
		{Name: "country", Type: project.Type{Kind: project.Varchar}},
		{Name: "price", Type: project.Type{Kind: project.Decimal, Precision: 18, Scale: 2}},
		{Name: "sold_at", Type: project.Type{Kind: project.Timestamp}, NotNull: true},
	}}
	compiler, err := view.NewCompiler([]*project.Stream{stream})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer compiler.Close()

	v, faults := compiler.Compile(&project.View{Name: "sales", File: "views/sales.sql",
		SQL: "SELECT country, date_trunc('day', sold_at) AS day, sum(price) AS revenue FROM orders GROUP BY ALL"})
	if v == nil {
		fmt.Println(faults)
		return
	}
	fmt.Println(v.CellColumns())
	fmt.Println(v.PartialSQL("batch"))
	fmt.Println(v.MergeSQL("cells"))
	final, _, err := v.FinalSQL("cells", view.Options{By: []string{"country"}, Having: "revenue > 1000"})
	fmt.Println(final, err)
	_, _, err = v.FinalSQL("cells", view.Options{Where: "revenue > 1000"})
	fmt.Println(err)
	// Output:
	// "k0" VARCHAR, "k1" TIMESTAMP, "c0" DECIMAL(38,2)
	// SELECT _duet_e.country AS "k0", date_trunc('day', _duet_e.sold_at) AS "k1", CAST(sum(_duet_e.price) AS DECIMAL(38,2)) AS "c0" FROM batch AS "_duet_e" GROUP BY 1, 2
	// SELECT "k0", "k1", CAST(sum("c0") AS DECIMAL(38,2)) AS "c0" FROM cells AS "_duet_p" GROUP BY 1, 2
	// SELECT * FROM (SELECT CAST(k0 AS VARCHAR) AS "country", CAST(a0 AS DECIMAL(38,2)) AS "revenue" FROM (SELECT "k0" AS "k0", CAST("c0" AS DECIMAL(38,2)) AS "a0" FROM (SELECT "k0", CAST(sum("c0") AS DECIMAL(38,2)) AS "c0" FROM cells AS "_duet_p" GROUP BY 1))) WHERE (revenue > 1000) <nil>
	// where:1: revenue is a measure; where selects by keys, before merging. put this condition into having
}
