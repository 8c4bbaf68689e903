package node

import (
	"context"
	"fmt"

	"duet/internal/base/duck"
	"duet/schemas"
	"duet/schemas/event"
	"duet/schemas/project"
	"duet/speed/eventlog"
)

// versions names what the meaning of events and views depends on besides the
// project. It is part of the definitions record (H11).
type versions struct {
	Event  int    `json:"event"`  // event.Version: the decoder, the sequencer and the rules for zones
	Zones  string `json:"zones"`  // project.ZoneVersion: the data of time zones
	Engine string `json:"engine"` // duck.EngineVersion
}

// currentVersions are those of this executable.
var currentVersions = versions{Event: event.Version, Zones: project.ZoneVersion(), Engine: duck.EngineVersion}

// decodesLike reports whether both versions decode every event alike. The engine does
// not matter: it is part of each view's version, and events are not decoded by it.
func (v versions) decodesLike(w versions) bool { return v.Event == w.Event && v.Zones == w.Zones }

func (v versions) String() string {
	return fmt.Sprintf("decoder %d, zones %s, DuckDB %s", v.Event, v.Zones, v.Engine)
}

// compareVersions refuses to decode events that another version has decoded already and
// that are not archived: answers have counted them, and this version may decide
// otherwise (H9, H11). With Redecode it decodes them, and startLive reports what changed.
func (n *Node) compareVersions(ctx context.Context) error {
	if n.before == nil || n.before.decodesLike(n.cfg.versions) {
		return nil
	}
	pos, err := firstEvent(ctx, n.lane.log, n.lane.archive.Through())
	if err != nil || pos == 0 {
		return err
	}
	if n.cfg.Redecode {
		n.redecode = true
		return nil
	}
	return fmt.Errorf("the log holds events from %s on that are not archived and that another version of duet has decoded (%v; this one has %v), so their verdicts or values could change. Archive them with the version that ran last: duet up --drain; then start this one. Or accept what this version decides, and get a report of what changes: duet up --redecode",
		pos, *n.before, n.cfg.versions)
}

// firstEvent returns the position of the first message after pos that holds events, 0 if
// only control records follow.
func firstEvent(ctx context.Context, l *eventlog.Log, pos schemas.Position) (schemas.Position, error) {
	last := l.Last()
	if pos >= last {
		return 0, nil
	}
	r, err := l.Read(ctx, pos)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for pos < last {
		m, err := r.Next(ctx)
		if err != nil {
			return 0, err
		}
		if m.Control == "" {
			return m.At, nil
		}
		pos = m.At
	}
	return 0, nil
}
