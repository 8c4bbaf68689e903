package shop

import (
	"container/heap"
	"fmt"
	"strconv"
	"time"
)

// Probabilities of returns, discounts and faults.
const (
	resentShare    = 0.002  // order lines that are sent twice
	malformedShare = 0.0008 // order lines that are malformed at first
	lateShare      = 0.004  // orders that arrive hours after the sale
	returnShare    = 0.06   // orders that are returned in part
	guestShare     = 0.3    // store orders without a customer number
	promotionShare = 0.12   // sold lines with a discount
	lossShare      = 0.03   // products of a store that lose some pieces each morning
)

// A sold is an order line that a return can refer to.
type sold struct {
	product  *product
	quantity int
	discount int64 // cents off the whole line
}

// cents returns the price of the line.
func (s sold) cents() int64 { return s.product.cents*int64(s.quantity) - s.discount }

// order places one order at the shop's clock and queues what follows from it:
// lines, payment, stock moves, and perhaps a return.
func (s *Shop) order(at *store) {
	s.invoice++
	o := orderHead{
		invoice: fmt.Sprintf("S%07d", s.invoice),
		shop:    at.code,
		country: at.country,
		channel: "shop",
		sold:    s.clock,
	}
	if at.web {
		o.channel = "web"
		// Squaring a uniform draw makes the first countries the likeliest.
		u := s.rng.Float64()
		o.country = webCountries[int(u*u*float64(len(webCountries)))]
	}
	if at.web || !s.chance(guestShare) {
		u := s.rng.Float64()
		o.customer = 10_000 + int64(u*u*25_000)
	}
	sent := o.sold
	if s.chance(lateShare) {
		sent = sent.Add(s.between(time.Hour, 9*time.Hour))
	}
	basket := s.basket(at)
	var total int64
	for i, item := range basket {
		total += item.cents()
		s.line(o, i+1, item, sent.Add(time.Duration(i)*time.Millisecond))
		s.stockMove(item.product, at, "sale", -item.quantity, sent.Add(s.between(time.Second, 90*time.Second)))
	}
	s.payment(o, total, sent)
	if s.chance(returnShare) {
		s.returnGoods(o, at, basket[s.rng.IntN(len(basket))])
	}
}

// basket returns an order's random items. Web baskets are larger; a few orders
// are wholesale.
func (s *Shop) basket(at *store) []sold {
	size := 1 + min(int(s.rng.ExpFloat64()*1.3), 11)
	if at.web {
		size += s.rng.IntN(3)
	}
	items := make([]sold, size)
	for i := range items {
		quantity := 1 + min(int(s.rng.ExpFloat64()*0.9), 9)
		if s.chance(0.01) {
			quantity *= 12
		}
		items[i] = sold{product: &s.catalogue[s.weighted(s.popular)], quantity: quantity}
		if s.chance(promotionShare) {
			items[i].discount = items[i].cents() * int64(5+5*s.rng.IntN(5)) / 100
		}
	}
	return items
}

// line queues one order line; sometimes twice, sometimes malformed first and
// corrected by a second attempt.
func (s *Shop) line(o orderHead, number int, item sold, sent time.Time) {
	if s.chance(malformedShare) {
		s.push("orders", sent, s.malformed(o, number, item))
		sent = sent.Add(s.between(time.Second, time.Minute))
	}
	json := o.line(number, item)
	s.push("orders", sent, json)
	if s.chance(resentShare) {
		s.push("orders", sent.Add(s.between(time.Second, 20*time.Minute)), json)
	}
}

// malformed returns an order line that the packaged project rejects.
func (s *Shop) malformed(o orderHead, number int, item sold) []byte {
	switch s.rng.IntN(4) {
	case 0: // text where a number belongs
		return o.fields(number, item, `"one"`, price(item.product.cents))
	case 1: // more decimals than money has
		return o.fields(number, item, strconv.Itoa(item.quantity), price(item.product.cents)+"333")
	case 2: // a missing price
		return o.fields(number, item, strconv.Itoa(item.quantity), "null")
	default: // truncated
		json := o.line(number, item)
		return json[:len(json)*2/3]
	}
}

// returnGoods queues a return of some pieces of a line, days later in opening
// hours, with its refund and stock move.
func (s *Shop) returnGoods(o orderHead, at *store, item sold) {
	back := o
	s.invoice++
	back.invoice = fmt.Sprintf("R%07d", s.invoice)
	back.returns = o.invoice
	days := 1 + min(int(s.rng.ExpFloat64()*6), 27)
	noon := o.sold.Add(at.offset).Truncate(24 * time.Hour).Add(12*time.Hour - at.offset)
	back.sold = noon.AddDate(0, 0, days).Add(s.between(-2*time.Hour, 5*time.Hour)).Truncate(time.Microsecond)
	pieces := 1 + s.rng.IntN(item.quantity)
	returned := sold{product: item.product, quantity: -pieces, discount: -item.discount * int64(pieces) / int64(item.quantity)}
	s.line(back, 1, returned, back.sold)
	s.stockMove(item.product, at, "return", pieces, back.sold.Add(s.between(time.Minute, time.Hour)))
	s.payment(back, returned.cents(), back.sold)
}

// payment queues the payment of an order. The method depends on country and
// channel; its fee is a share of the amount and is not refunded.
func (s *Shop) payment(o orderHead, cents int64, after time.Time) {
	method, wait, permille := "card", s.between(2*time.Second, 40*time.Second), int64(14)
	u := s.rng.Float64()
	switch {
	case o.channel == "web" && u < .3:
		method, wait, permille = "invoice", s.between(20*time.Hour, 14*24*time.Hour), 29
	case o.channel == "shop" && u < cashShare(o.country):
		method, permille = "cash", 0
	case u > .97:
		method, permille = "voucher", 0
	}
	fee := max(0, cents) * permille / 1000
	paid := after.Add(wait).Truncate(time.Microsecond)
	s.push("payments", paid, o.payment(method, cents, fee, paid))
}

// cashShare returns the share of store orders that is paid in cash.
func cashShare(country string) float64 {
	switch country {
	case "Germany", "Japan":
		return .45
	case "Netherlands", "Australia":
		return .08
	default:
		return .2
	}
}

// stockMove queues a change of a store's stock and applies it.
func (s *Shop) stockMove(p *product, at *store, reason string, pieces int, when time.Time) {
	p.stock[at.index] += pieces
	when = when.Truncate(time.Microsecond)
	s.push("stock_moves", when, stockMove(p, at.code, reason, pieces, when))
}

// piecesAnOrder is the average number of pieces of an order, roughly.
const piecesAnOrder = 3.3

// deliver refills low stock of each store to four days' expected sales, records
// some losses, and queues the delivery of the next morning at five.
func (s *Shop) deliver(at time.Time) {
	var before float64
	for i := range s.catalogue {
		p := &s.catalogue[i]
		weight := (s.popular[i] - before) / s.popular[len(s.popular)-1]
		before = s.popular[i]
		for j := range s.stores {
			full := 40 + int(4*24*3600*s.rate*piecesAnOrder*weight*s.stores[j].share)
			have := p.stock[j]
			switch {
			case have < full/2:
				s.stockMove(p, &s.stores[j], "delivery", full-have, at.Add(s.between(0, 30*time.Minute)))
			case s.chance(lossShare):
				s.stockMove(p, &s.stores[j], "loss", -1-s.rng.IntN(3), at.Add(s.between(0, 30*time.Minute)))
			}
		}
	}
	s.made++
	next := at.Add(-5 * time.Hour).Truncate(24 * time.Hour).Add(29 * time.Hour)
	heap.Push(&s.pending, entry{event: Event{At: next}, made: s.made, delivery: true})
}
