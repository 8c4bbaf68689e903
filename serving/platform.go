package serving

import (
	"duet/batch"
	"duet/batch/archive"
	"duet/batch/catalog"
	"duet/batch/scrub"
	"duet/schemas"
	"duet/schemas/project"
	"duet/serving/query"
	"duet/serving/store"
	"duet/speed"
	"duet/speed/eventlog"
)

// Platform holds the parts of a running node that calls act on. All are
// required.
type Platform struct {
	Views []query.View // the project's, compiled
	Log   *eventlog.Log
	// Adoptions are the logs that were begun in place of lost ones.
	Adoptions []schemas.Adoption
	Live      *speed.Live
	Store     *store.Store
	Archive   *archive.Archive
	Archiver  *archive.Archiver
	Catalog   *catalog.Catalog
	Runner    *batch.Runner
	Scrubber  *scrub.Scrubber
	// Accounts returns what became of each stream's events, from the first one on.
	Accounts func() map[string]schemas.Account
}

// platform is an attached Platform with what serving builds over it.
type platform struct {
	Platform
	engine *query.Engine
	inc    schemas.Incarnation // of the log
}

func newPlatform(p Platform, streams []*project.Stream) *platform {
	inc := p.Log.Incarnation()
	return &platform{
		Platform: p,
		inc:      inc,
		engine: query.New(query.Config{
			Views: p.Views, Streams: streams, Store: p.Store, Archive: p.Archive, Catalog: p.Catalog,
			Wait: p.Live.Wait, Last: p.Log.Last, Incarnation: inc, Adoptions: p.Adoptions,
		}),
	}
}
