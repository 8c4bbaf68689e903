package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"duet/schemas"
	"duet/schemas/event"
)

// The file of verdicts stays small: it drops what is archived.
func TestVerdictsOfArchivedMessagesAreDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "verdicts")
	v, err := openVerdicts(path, false, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer v.close()
	const most = 3 * verdictsKept / verdictBytes
	for i := 1; i <= most; i++ {
		v.add([]event.MessageVerdicts{{Pos: schemas.Position(i), Account: schemas.Account{Received: 1, Accepted: 1}}})
		if i%1000 == 0 {
			v.archived(schemas.Position(i - 100))
		}
	}
	info, err := os.Stat(path + ".log")
	if err != nil || info.Size() > 2*verdictsKept {
		t.Fatalf("the file has %d bytes: %v", info.Size(), err)
	}
	all, err := readVerdicts(path + ".log")
	if err != nil {
		t.Fatal(err)
	}
	for i := most - 50; i <= most; i++ {
		if all[schemas.Position(i)].accepted != 1 {
			t.Fatalf("message %d is missing", i)
		}
	}
}
