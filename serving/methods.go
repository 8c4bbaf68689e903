package serving

// A class of methods shares one pool of slots, so that calls of one class
// cannot keep those of another out.
type class uint8

const (
	classAppend  class = iota // ends when the log has synced
	classStream               // an open AppendStream; the appender bounds what its requests hold
	classQuery                // reads views, and may wait for a position
	classOperate              // status, rejects, inspection, runs: what an operator needs when all else is busy
	numClasses
)

// A method is an entry of methods.
type method struct {
	class class
	// early methods answer before the platform has caught up. They must expect
	// that none is attached.
	early bool
}

// methods has every method of every service, and every HTTP path that passes
// the gate. What is not listed does not exist.
var methods = map[string]method{
	"/duet.v1.IngestService/Append":           {class: classAppend},
	"/duet.v1.IngestService/AppendStream":     {class: classStream},
	"/duet.v1.IngestService/GetAccount":       {class: classQuery},
	"/duet.v1.ViewService/ListViews":          {class: classQuery},
	"/duet.v1.ViewService/GetView":            {class: classQuery},
	"/duet.v1.ViewService/Query":              {class: classQuery},
	"/duet.v1.ViewService/Verify":             {class: classQuery},
	"/duet.v1.BatchService/StartRun":          {class: classOperate},
	"/duet.v1.BatchService/GetRun":            {class: classOperate},
	"/duet.v1.BatchService/ListRuns":          {class: classOperate},
	"/duet.v1.BatchService/Rollback":          {class: classOperate},
	"/duet.v1.BatchService/Pause":             {class: classOperate},
	"/duet.v1.BatchService/Resume":            {class: classOperate},
	"/duet.v1.BatchService/Pin":               {class: classOperate},
	"/duet.v1.BatchService/Unpin":             {class: classOperate},
	"/duet.v1.BatchService/ListGenerations":   {class: classOperate},
	"/duet.v1.BatchService/GetReconciliation": {class: classOperate},
	"/duet.v1.OperateService/GetStatus":       {class: classOperate, early: true},
	"/duet.v1.OperateService/ListRejects":     {class: classOperate},
	"/duet.v1.OperateService/Inspect":         {class: classOperate, early: true},
	"/duet.v1.OperateService/StartScrub":      {class: classOperate},
	"/duet.v1.OperateService/GetScrub":        {class: classOperate},

	appendPath:    {class: classAppend},
	pageStatus:    {class: classOperate, early: true},
	pageViews:     {class: classQuery},
	metricsStatus: {class: classOperate, early: true},
}

// Names of what passes the gate without being a method of a service; metrics
// and logs have them.
const (
	appendPath    = "/v1/append"
	pageStatus    = "/page/status"
	pageViews     = "/page/views"
	metricsStatus = "/metrics"
)
