//go:build !race

// The generator is single-threaded; under the race detector these tests would
// take minutes and find nothing.

package shop

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
)

var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) // a Monday

type record struct {
	SKU, Category, Shop, Country, Reason, Returns string

	Order    string `json:"order_id"`
	Line     int
	Quantity int
	Pieces   int
	Price    json.Number `json:"unit_price"`
	Discount json.Number
	Amount   json.Number
	SoldAt   time.Time `json:"sold_at"`
}

// week visits one week of a shop's events, in order.
func week(t *testing.T, visit func(Event)) {
	t.Helper()
	s := New(Config{Seed: 7, Start: start, OrdersPerMinute: 2})
	for e := s.Next(); e.At.Before(start.AddDate(0, 0, 7)); e = s.Next() {
		visit(e)
	}
}

func digest(c Config, n int) uint64 {
	h := xxh3.New()
	s := New(c)
	for range n {
		e := s.Next()
		_, _ = h.WriteString(e.Stream + e.At.String())
		_, _ = h.Write(e.JSON)
	}
	return h.Sum64()
}

func TestTheSameSeedGivesTheSameBytes(t *testing.T) {
	a, b := digest(Config{Seed: 1, Start: start}, 50_000), digest(Config{Seed: 1, Start: start}, 50_000)
	if a != b {
		t.Errorf("seed 1 gave %x, then %x", a, b)
	}
	if c := digest(Config{Seed: 2, Start: start}, 50_000); c == a {
		t.Errorf("seeds 1 and 2 both gave %x", c)
	}
}

func TestEventsComeInOrder(t *testing.T) {
	last := time.Time{}
	week(t, func(e Event) {
		if e.At.Before(last) {
			t.Fatalf("%s after %s", e.At, last)
		}
		last = e.At
	})
}

// TestTheShopIsBelievable checks the figures of a week that an analyst would
// look at.
func TestTheShopIsBelievable(t *testing.T) {
	events := map[string]int{}
	seen := map[string][]byte{}
	var resent, malformed, late, returns, deliveries, losses, unpaid int
	byDay := map[time.Weekday]int{}
	byHour := map[int]int{} // London, on its own clock, which is UTC in March
	byCountry := map[string]int{}
	categories := map[string]bool{}
	stock := map[string]int{}
	owed := map[string]*big.Rat{}
	week(t, func(e Event) {
		events[e.Stream]++
		var r record
		decoder := json.NewDecoder(bytes.NewReader(e.JSON))
		decoder.UseNumber()
		if err := decoder.Decode(&r); err != nil {
			malformed++
			return
		}
		switch e.Stream {
		case "orders":
			if r.Price == "" || strings.Contains(r.Price.String(), ".") && len(r.Price.String())-strings.IndexByte(r.Price.String(), '.') > 3 {
				malformed++
				return
			}
			id := r.Order + "/" + string(rune('0'+r.Line))
			if first, ok := seen[id]; ok {
				if !bytes.Equal(first, e.JSON) {
					t.Fatalf("%s was sent twice, differently:\n%s\n%s", id, first, e.JSON)
				}
				resent++
				return
			}
			seen[id] = e.JSON
			if r.SoldAt.After(e.At) {
				t.Fatalf("sent at %s: %s", e.At, e.JSON)
			}
			if e.At.Sub(r.SoldAt) > 30*time.Minute {
				late++
			}
			if strings.HasPrefix(r.Order, "R") {
				returns++
				if r.Quantity >= 0 || r.Returns == "" {
					t.Fatalf("a return: %s", e.JSON)
				}
			} else if r.Quantity <= 0 {
				t.Fatalf("a sale: %s", e.JSON)
			}
			amount, _ := new(big.Rat).SetString(r.Price.String())
			if owed[r.Order] == nil {
				owed[r.Order] = new(big.Rat)
			}
			discount, _ := new(big.Rat).SetString(r.Discount.String())
			amount.Mul(amount, big.NewRat(int64(r.Quantity), 1))
			owed[r.Order].Add(owed[r.Order], amount.Sub(amount, discount))
			byCountry[r.Country]++
			byDay[r.SoldAt.Weekday()]++
			if r.Shop == "LON-1" {
				byHour[r.SoldAt.Hour()]++
			}
			categories[r.Category] = true
		case "payments":
			amount, _ := new(big.Rat).SetString(r.Amount.String())
			if owed[r.Order] == nil || owed[r.Order].Cmp(amount) != 0 {
				unpaid++ // its lines are late
			}
		case "stock_moves":
			stock[r.Shop+r.SKU] += r.Pieces
			switch r.Reason {
			case "delivery":
				deliveries++
			case "loss":
				losses++
			}
		}
	})
	t.Logf("%v; resent %d, malformed %d, late %d, returns %d, deliveries %d, losses %d, paid before its lines %d", events, resent, malformed, late, returns, deliveries, losses, unpaid)
	t.Logf("by country %v; by weekday %v; London by hour %v", byCountry, byDay, byHour)
	orders := events["orders"]
	for what, ok := range map[string]bool{
		"a week has 2 orders a minute of two lines or so":   orders > 30_000 && orders < 60_000,
		"payments are fewer than lines":                     events["payments"] > 15_000 && events["payments"] < orders,
		"stock moves follow lines":                          events["stock_moves"] > orders*9/10,
		"some lines come twice, few":                        resent > 20 && resent < orders/100,
		"some lines are broken, few":                        malformed > 10 && malformed < orders/200,
		"some orders are late":                              late > 30 && late < orders/50,
		"some come back":                                    returns > 250 && returns < orders/10,
		"deliveries come":                                   deliveries > len(stock)+100,
		"some pieces are lost":                              losses > 100 && losses < orders/10,
		"Saturday is the best day":                          byDay[time.Saturday] > byDay[time.Monday]*5/4,
		"London is shut at night":                           byHour[3] == 0,
		"noon is busier than opening":                       byHour[12] > 2*byHour[8],
		"home sells most":                                   byCountry["United Kingdom"] > 2*byCountry["Japan"],
		"at least eight countries":                          len(byCountry) >= 8,
		"all categories":                                    len(categories) == len(assortment),
		"nearly every payment is of its order, to the cent": unpaid < events["payments"]/50,
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	negative := 0
	for _, pieces := range stock {
		if pieces < 0 {
			negative++
		}
	}
	if negative > len(stock)/20 {
		t.Errorf("%d of %d stocks are below zero at the week's end", negative, len(stock))
	}
}

func TestPriceKeepsCents(t *testing.T) {
	for cents, want := range map[int64]string{0: "0.00", 5: "0.05", -5: "-0.05", 1295: "12.95", -100: "-1.00"} {
		if got := price(cents); got != want {
			t.Errorf("%d cents: %s, want %s", cents, got, want)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	s := New(Config{Seed: 1})
	for b.Loop() {
		s.Next()
	}
}
