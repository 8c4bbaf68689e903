package node

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"duet/schemas/duetv1"
)

// problems is everything that needs a person, each with what to do.
func (n *Node) problems(views []*duetv1.ViewStatus, b *duetv1.BatchStatus) []string {
	var out []string
	if err := n.failure(); err != nil {
		out = append(out, err.Error())
	}
	if level, why := n.log.Health(); level != 0 {
		out = append(out, why)
	}
	if err := n.live.Progress().Held; err != nil {
		out = append(out, "the live half waits: "+err.Error())
	}
	if err := n.archiver.Err(); err != nil {
		out = append(out, "archiving fails and is tried again: "+err.Error())
	}
	if err := n.runner.Err(); err != nil {
		out = append(out, err.Error())
	}
	if last := b.GetLast(); last.GetState() == duetv1.RunState_RUN_STATE_FAILED || last.GetState() == duetv1.RunState_RUN_STATE_HELD || last.GetState() == duetv1.RunState_RUN_STATE_FENCED {
		out = append(out, fmt.Sprintf("the last batch run (%s) did not publish: %s", last.GetId(), last.GetProblem()))
	}
	if b.GetPaused() {
		out = append(out, "the schedule is paused ("+b.GetPauseReason()+"): duet batch resume")
	}
	for _, v := range views {
		if v.GetProblem() != "" {
			out = append(out, v.GetProblem())
		}
	}
	return out
}

// inspectGeneration shows one generation, the current one unless asked.
func (n *Node) inspectGeneration(_ context.Context, args map[string]string) ([]*duetv1.InspectTable, error) {
	want, err := number(args, "number", n.generationNumber())
	if err != nil {
		return nil, err
	}
	head := newTable("generation", "number BIGINT", "kind", "base BIGINT", "published TIMESTAMP", "cut", "archive BIGINT", "run", "rollback_of BIGINT")
	views := newTable("views", "view", "definition", "groups BIGINT", "bytes BIGINT", "cells BIGINT", "file", "xxh3_128", "suspended")
	totals := newTable("totals", "stream", "received BIGINT", "accepted BIGINT", "duplicate BIGINT", "rejected BIGINT")
	tables := []*duetv1.InspectTable{head.t, views.t, totals.t}
	if want == 0 {
		return tables, nil // none is published yet
	}
	g, err := n.catalog.Get(want)
	if err != nil {
		return nil, err
	}
	head.add(g.Number, string(g.Kind), g.Base, g.Published, g.Cut.At(), g.Archive, g.Run, g.Of)
	for _, v := range g.Views {
		suspended := ""
		if v.Suspended != nil {
			suspended = v.Suspended.Message
		}
		views.add(v.Name, v.Definition, v.Rows, v.Bytes, len(v.Cells), v.File, v.XXH3, suspended)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Streams)) {
		t := g.Streams[name]
		totals.add(name, t.Received, t.Accepted, t.Duplicate, t.Rejected)
	}
	return tables, nil
}
