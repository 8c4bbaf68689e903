package shop

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// A product has one price for all countries, in cents.
type product struct {
	sku, name, category string
	cents               int64
	stock               []int // by store
}

// assortment lists what each category sells, and its prices in cents.
var assortment = []struct {
	category string
	prices   []int64
	kinds    []string
	makes    []string
}{
	{"Kitchen", []int64{495, 795, 1295, 1995, 3495}, []string{"mug", "teapot", "bowl", "pan", "bread bin", "cake stand", "jug"}, []string{"enamel", "stoneware", "retro spot", "oak", "steel"}},
	{"Lighting", []int64{1495, 2495, 3995, 7995}, []string{"table lamp", "lantern", "string lights", "floor lamp"}, []string{"brass", "paper", "glass", "wicker"}},
	{"Textiles", []int64{895, 1795, 2995, 4995}, []string{"cushion", "throw", "tea towel", "tablecloth"}, []string{"linen", "wool", "striped", "quilted"}},
	{"Garden", []int64{395, 995, 1995, 5995}, []string{"planter", "watering can", "bird feeder", "trellis", "bench cushion"}, []string{"zinc", "terracotta", "cedar"}},
	{"Stationery", []int64{125, 249, 495, 995}, []string{"notebook", "pencil set", "gift wrap", "card pack", "wall calendar"}, []string{"kraft", "floral", "recycled", "vintage"}},
	{"Toys", []int64{299, 699, 1499, 2499}, []string{"wooden train", "jigsaw", "skittles", "spinning top", "puppet"}, []string{"painted", "pocket", "classic"}},
	{"Bath", []int64{349, 650, 1250, 2250}, []string{"soap", "towel", "bath mat", "candle"}, []string{"lavender", "cotton", "cedarwood", "sea salt"}},
	{"Food", []int64{275, 420, 650, 1150}, []string{"tea", "shortbread", "jam", "chocolate", "coffee"}, []string{"breakfast", "organic", "ginger", "dark"}},
}

// catalogue returns a product for each make of each kind, with a random price.
func catalogue(rng *rand.Rand) []product {
	var all []product
	for c, line := range assortment {
		for k, kind := range line.kinds {
			for m, material := range line.makes {
				all = append(all, product{
					sku:      fmt.Sprintf("%s%d%02d%d", line.category[:1], c+1, k+1, m+1),
					name:     material + " " + kind,
					category: line.category,
					cents:    line.prices[rng.IntN(len(line.prices))],
					stock:    make([]int, len(storeList)),
				})
			}
		}
	}
	return all
}

// A store is open by its local time.
type store struct {
	index   int
	code    string
	country string
	web     bool
	share   float64       // of all orders, over a week
	offset  time.Duration // of its clock from UTC; daylight saving is ignored
}

var storeList = []store{
	{code: "LON-1", country: "United Kingdom", share: .20},
	{code: "MAN-1", country: "United Kingdom", share: .09},
	{code: "DUB-1", country: "Ireland", share: .05},
	{code: "PAR-1", country: "France", share: .09, offset: time.Hour},
	{code: "BER-1", country: "Germany", share: .10, offset: time.Hour},
	{code: "AMS-1", country: "Netherlands", share: .06, offset: time.Hour},
	{code: "NYC-1", country: "United States", share: .11, offset: -5 * time.Hour},
	{code: "TYO-1", country: "Japan", share: .06, offset: 9 * time.Hour},
	{code: "SYD-1", country: "Australia", share: .04, offset: 10 * time.Hour},
	{code: "WEB", country: "", web: true, share: .20},
}

// stores returns numbered copies of storeList.
func stores() []store {
	all := append([]store(nil), storeList...)
	for i := range all {
		all[i].index = i
	}
	return all
}

// webCountries lists the countries that the web shop ships to, most frequent first.
var webCountries = []string{"United Kingdom", "Germany", "United States", "France", "Ireland", "Netherlands", "Spain", "Japan", "Australia", "Norway"}

// Relative order rates by hour and by weekday (from Sunday), of a store and of
// the web shop. Each list averages about 1.
var (
	storeHours = [24]float64{0, 0, 0, 0, 0, 0, 0, .2, .8, 1.6, 2.1, 2.4, 2.9, 2.6, 2.1, 2.0, 2.2, 2.5, 1.9, .7, 0, 0, 0, 0}
	webHours   = [24]float64{.5, .3, .2, .15, .15, .2, .4, .7, .9, 1, 1.1, 1.1, 1.2, 1.1, 1, 1, 1.1, 1.2, 1.5, 1.9, 2.2, 2.1, 1.6, 1}
	storeDays  = [7]float64{.55, .8, .85, .9, 1, 1.3, 1.6}
	webDays    = [7]float64{1.3, 1.15, 1, .95, .9, .8, .9}
)

// rhythm returns the store's order rate at an instant, relative to its share.
// Hours are interpolated, so that opening is a slope. The rate rises around pay
// day and from October to December.
func (s *store) rhythm(at time.Time) float64 {
	local := at.Add(s.offset)
	hours, days := &storeHours, &storeDays
	if s.web {
		hours, days = &webHours, &webDays
	}
	hour, part := local.Hour(), float64(local.Minute())/60
	rate := hours[hour]*(1-part) + hours[(hour+1)%24]*part
	rate *= days[local.Weekday()]
	if day := local.Day(); day >= 25 || day <= 3 {
		rate *= 1.12
	}
	switch local.Month() {
	case time.October:
		rate *= 1.05
	case time.November:
		rate *= 1.2
	case time.December:
		rate *= 1.35
	}
	return rate
}
