package main

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"duet/internal/base/duck"
	"duet/internal/shop"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"duet": main})
}

// TestScripts runs the scripts of testdata/script and testdata/long. DUET_ADDR
// is a free address for each script. In addition to testscript's commands there
// are
//
//	code N duet ARGS...          run a command that must exit with code N
//	until REGEXP duet ARGS...    run a command until it succeeds and its output matches, for at most a minute
//	binary FILE                  write a file that is not text
//	truncated FILE               write a gzip file that is cut off
//	flip FILE                    flip a bit of the file's last byte
//	damage DIR                   flip a bit in the newest file of a folder
//	retail FILE                  link the file of a year's sales (see retailFile)
//	oracle FILE OUT SQL          write the result of SQL by plain DuckDB over that file, the table "file", as CSV
//
// The scripts of testdata/long load a year of sales; -short, which the race
// detector uses, leaves them out.
func TestScripts(t *testing.T) {
	retail := ""
	stories, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if !testing.Short() {
		retail = retailFile(t)
		long, err := filepath.Glob("testdata/long/*.txtar")
		if err != nil {
			t.Fatal(err)
		}
		stories = append(stories, long...)
	}
	testscript.Run(t, testscript.Params{
		Files:               stories,
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code":   exitsWith,
			"until":  until,
			"oracle": oracle,
			"binary": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("\x89PNG\r\n\x1a\n"+strings.Repeat("\x00\x01\xfe,\n", 100)), 0o644))
			},
			"truncated": func(ts *testscript.TestScript, _ bool, args []string) {
				var whole bytes.Buffer
				z := gzip.NewWriter(&whole)
				_, err := io.WriteString(z, "country,price,sold_at\n"+strings.Repeat("France,1.50,2026-01-02 03:04:05\n", 100))
				ts.Check(errors.Join(err, z.Close()))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), whole.Bytes()[:whole.Len()/2], 0o644))
			},
			"flip": func(ts *testscript.TestScript, _ bool, args []string) {
				b, err := os.ReadFile(ts.MkAbs(args[0]))
				ts.Check(err)
				b[len(b)-1] ^= 1
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
			},
			"damage": func(ts *testscript.TestScript, _ bool, args []string) { damageNewest(ts, ts.MkAbs(args[0])) },
			"retail": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.Symlink(retail, ts.MkAbs(args[0])))
			},
		},
		Setup: func(env *testscript.Env) error {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Setenv("DUET_ADDR", listener.Addr().String())
			return listener.Close()
		},
	})
}

// damageNewest flips a bit in the middle of the newest file of a folder.
func damageNewest(ts *testscript.TestScript, dir string) {
	entries, err := os.ReadDir(dir)
	ts.Check(err)
	var newest string
	var at time.Time
	for _, e := range entries {
		info, err := e.Info()
		ts.Check(err)
		if info.ModTime().After(at) {
			newest, at = filepath.Join(dir, e.Name()), info.ModTime()
		}
	}
	data, err := os.ReadFile(newest)
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(newest, data, 0o600))
}

func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND [ARGS...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND [ARGS...]")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	late := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-late:
			ts.Fatalf("error %v, or output that does not match %s, still after a minute", err, args[0])
		case <-tick.C:
		}
	}
}

// oracle asks plain DuckDB, which reads the file by itself.
func oracle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: oracle FILE OUT SQL")
	}
	db, err := duck.Open(duck.Config{Threads: 2})
	ts.Check(err)
	defer db.Close()
	// Text becomes DECIMAL without a double in between. Ids are written 17850.0.
	_, err = db.Exec("CREATE TABLE file AS SELECT * REPLACE (CAST(CAST(\"CustomerID\" AS DECIMAL(18,1)) AS BIGINT) AS \"CustomerID\") FROM read_csv(" +
		duck.Literal(ts.MkAbs(args[0])) + `, header=true, columns={'InvoiceNo':'VARCHAR','StockCode':'VARCHAR','Description':'VARCHAR','Quantity':'INTEGER',` +
		`'InvoiceDate':'TIMESTAMP','UnitPrice':'DECIMAL(18,3)','CustomerID':'VARCHAR','Country':'VARCHAR'})`)
	ts.Check(err)
	_, err = db.Exec("COPY (" + args[2] + ") TO " + duck.Literal(ts.MkAbs(args[1])) + " (HEADER, DELIMITER ',')")
	ts.Check(err)
}

// retailFile returns the path of UCI's Online Retail as CSV: DUET_RETAIL_FILE,
// or the copy beside the repository. Without either, a simulated shop writes a
// file with the same columns.
func retailFile(t *testing.T) string {
	t.Helper()
	if named := os.Getenv("DUET_RETAIL_FILE"); named != "" {
		return named
	}
	beside, err := filepath.Abs(filepath.Join("..", "..", "..", "shared", "data", "online_retail.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	made := filepath.Join(t.TempDir(), "made_up.csv.gz")
	if err := writeRetail(made, 150_000); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s does not exist: using the file of a simulated shop", beside)
	return made
}

// cents matches a well-formed price of the simulated shop.
var cents = regexp.MustCompile(`^\d+\.\d\d$`)

// writeRetail writes order lines of a simulated shop in Online Retail's columns.
func writeRetail(path string, lines int) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	zipped := gzip.NewWriter(file)
	out := csv.NewWriter(io.Writer(zipped))
	if err := out.Write([]string{"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"}); err != nil {
		return err
	}
	s := shop.New(shop.Config{Seed: 1})
	for lines > 0 {
		var order struct {
			Order    string `json:"order_id"`
			SKU      string
			Product  string
			Quantity int
			Sold     time.Time   `json:"sold_at"`
			Price    json.Number `json:"unit_price"`
			Customer int64
			Country  string
		}
		e := s.Next()
		if e.Stream != "orders" || json.Unmarshal(e.JSON, &order) != nil || !cents.MatchString(order.Price.String()) {
			continue // not an order, or a malformed one
		}
		customer := ""
		if order.Customer != 0 { // an answer holds up to 10,000 of them
			customer = strconv.FormatInt(order.Customer/4, 10) + ".0"
		}
		err := out.Write([]string{order.Order, order.SKU, order.Product, strconv.Itoa(order.Quantity), order.Sold.Format(time.DateTime), order.Price.String() + "5", customer, order.Country}) // three decimals, as the real ones have
		if err != nil {
			return err
		}
		lines--
	}
	out.Flush()
	return errors.Join(out.Error(), zipped.Close())
}
