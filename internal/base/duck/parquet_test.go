package duck_test

import (
	"os"
	"path/filepath"
	"testing"

	"duet/internal/base/duck"
)

// The data folder is the user's: its name must not change what a file holds.
func TestParquetReadsTheFileAndNotItsPath(t *testing.T) {
	for _, name := range []string{"plain", "k=other", "year=2026", "it's", "a[1]b", "star*", "que?stion", "{a,b}"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "f.parquet")
		db, err := duck.Open(duck.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("COPY (SELECT 'own' AS k, 1 AS n) TO " + duck.Literal(path) + " (FORMAT parquet)"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var k string
		var columns int
		if err := db.QueryRow("SELECT k, (SELECT count(*) FROM (DESCRIBE FROM "+duck.Parquet(path)+")) FROM "+duck.Parquet(path)).Scan(&k, &columns); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if k != "own" || columns != 2 {
			t.Errorf("%s: k is %q in %d columns", name, k, columns)
		}
	}
}
