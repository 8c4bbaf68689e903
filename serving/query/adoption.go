package query

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"duet/schemas"
	"duet/schemas/duetv1"
)

// Adoptions returns adoptions as the interface has them.
func Adoptions(list []schemas.Adoption) []*duetv1.Adoption {
	var out []*duetv1.Adoption
	for _, a := range list {
		m := &duetv1.Adoption{Incarnation: a.ID, Ordinal: a.Ordinal, Continues: positionOf(a.Continues), GivenUp: positionOf(a.GivenUp)}
		if t, err := time.Parse(time.RFC3339Nano, a.Created); err == nil {
			m.CreateTime = timestamppb.New(t)
		}
		out = append(out, m)
	}
	return out
}

// positionOf returns nil for position 0, which is before every message.
func positionOf(p schemas.Position) *duetv1.Position {
	if p == 0 {
		return nil
	}
	return &duetv1.Position{Ordinal: p.Ordinal(), Sequence: p.Sequence()}
}
