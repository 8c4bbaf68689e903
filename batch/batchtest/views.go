package batchtest

import (
	"duet/batch/recompute"
)

// Views returns the world's views, compiled by hand: one by key with NULL keys and
// exact cells, a sum of DOUBLE (rounded at read), one row over everything, and one
// that cannot be evaluated over a poisoned event.
func Views() []recompute.View {
	rows, cells := recompute.RowsTable, recompute.CellsTable
	merged := "(SELECT k0, sum(c0)::DECIMAL(38,4) AS c0, sum(c1)::BIGINT AS c1, max(c2) AS c2 FROM " + cells + " GROUP BY k0)"
	return []recompute.View{
		{
			Name: "by_key", Stream: Stream, Definition: "by_key-1",
			Partial: "SELECT k AS k0, sum(price)::DECIMAL(38,4) AS c0, count(*) AS c1, max({'v': price, 'p': _duet_at, 'r': _duet_record}) FILTER (price IS NOT NULL) AS c2 FROM " + rows + " WHERE qty > 0 GROUP BY k",
			Merge:   "SELECT k0, sum(c0)::DECIMAL(38,4) AS c0, sum(c1)::BIGINT AS c1, max(c2) AS c2 FROM " + cells + " GROUP BY k0",
			Final:   "SELECT k0 AS k, c0 AS revenue, coalesce(c1, 0) AS lines, c2.v AS top FROM " + merged,
			Keys:    []recompute.Column{{Name: "k0", Type: "VARCHAR", Exact: true, Label: "k"}},
			Cells: []recompute.Column{
				{Name: "c0", Type: "DECIMAL(38,4)", Exact: true}, {Name: "c1", Type: "BIGINT", Exact: true},
				{Name: "c2", Type: "STRUCT(v DECIMAL(18,4), p BIGINT, r INTEGER)", Exact: true},
			},
		},
		{
			Name: "scores", Stream: Stream, Definition: "scores-1",
			Partial: "SELECT date_trunc('day', sold_at) AS k0, sum(score) AS c0, sum(abs(score)) AS c1 FROM " + rows + " GROUP BY ALL",
			Merge:   "SELECT k0, sum(c0) AS c0, sum(c1) AS c1 FROM " + cells + " GROUP BY k0",
			Final:   "SELECT k0 AS day, round(sum(c0), 3) AS score FROM " + cells + " GROUP BY k0",
			Keys:    []recompute.Column{{Name: "k0", Type: "TIMESTAMP", Exact: true, Label: "day"}},
			Cells:   []recompute.Column{{Name: "c0", Type: "DOUBLE", Magnitude: "c1"}, {Name: "c1", Type: "DOUBLE", Magnitude: "c1"}},
		},
		{
			Name: "total", Stream: Stream, Definition: "total-1",
			Partial: "SELECT count(*) AS c0, sum(price)::DECIMAL(38,4) AS c1 FROM " + rows,
			Merge:   "SELECT sum(c0)::BIGINT AS c0, sum(c1)::DECIMAL(38,4) AS c1 FROM " + cells,
			Final:   "SELECT coalesce(sum(c0), 0)::BIGINT AS n, sum(c1)::DECIMAL(38,4) AS revenue FROM " + cells,
			Cells:   []recompute.Column{{Name: "c0", Type: "BIGINT", Exact: true}, {Name: "c1", Type: "DECIMAL(38,4)", Exact: true}},
		},
		{
			Name: "risky", Stream: Stream, Definition: "risky-1",
			Partial: "SELECT k AS k0, sum(CAST(qty AS TINYINT))::DECIMAL(38,0) AS c0 FROM " + rows + " GROUP BY k",
			Merge:   "SELECT k0, sum(c0)::DECIMAL(38,0) AS c0 FROM " + cells + " GROUP BY k0",
			Final:   "SELECT k0 AS k, sum(c0)::DECIMAL(38,0) AS qty FROM " + cells + " GROUP BY k0",
			Keys:    []recompute.Column{{Name: "k0", Type: "VARCHAR", Exact: true, Label: "k"}},
			Cells:   []recompute.Column{{Name: "c0", Type: "DECIMAL(38,0)", Exact: true}},
		},
	}
}

// plain has each view as plain SQL over all events, the oracle (H3).
var plain = map[string]string{
	"by_key": "SELECT k, sum(price)::DECIMAL(38,4), count(*), max(price) FROM events WHERE qty > 0 GROUP BY k",
	"scores": "SELECT date_trunc('day', sold_at), round(sum(score), 3) FROM events GROUP BY ALL",
	"total":  "SELECT count(*), sum(price)::DECIMAL(38,4) FROM events",
	"risky":  "SELECT k, sum(CAST(qty AS TINYINT))::DECIMAL(38,0) FROM events GROUP BY k",
}
