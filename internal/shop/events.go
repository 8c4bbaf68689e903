package shop

import (
	"fmt"
	"strconv"
	"time"
)

// The records of the packaged retail project's streams, as JSON objects. No
// string of the shop needs escaping.

// An orderHead is what the lines of an order share.
type orderHead struct {
	invoice  string
	customer int64 // 0 when anonymous
	store    string
	channel  string
	country  string
	returns  string // the invoice that a return refers to
	sold     time.Time
}

// line is one order line.
func (o orderHead) line(number int, item sold) []byte {
	return o.fields(number, item, strconv.Itoa(item.quantity), price(item.product.cents))
}

// fields is an order line with quantity and price as given, which may be wrong.
func (o orderHead) fields(number int, item sold, quantity, price string) []byte {
	customer, returns := "null", "null"
	if o.customer != 0 {
		customer = strconv.FormatInt(o.customer, 10)
	}
	if o.returns != "" {
		returns = strconv.Quote(o.returns)
	}
	return fmt.Appendf(nil,
		`{"invoice":%q,"line":%d,"sku":%q,"product":%q,"category":%q,"quantity":%s,"price":%s,"customer":%s,"store":%q,"channel":%q,"country":%q,"returns":%s,"sold_at":%q}`,
		o.invoice, number, item.product.sku, item.product.name, item.product.category, quantity, price,
		customer, o.store, o.channel, o.country, returns, stamp(o.sold))
}

// payment pays an order or refunds a return.
func (o orderHead) payment(method string, cents int64, paid time.Time) []byte {
	return fmt.Appendf(nil,
		`{"payment":%q,"invoice":%q,"method":%q,"amount":%s,"store":%q,"country":%q,"paid_at":%q}`,
		"P"+o.invoice, o.invoice, method, price(cents), o.store, o.country, stamp(paid))
}

// stockMove is a change of one store's stock of one product.
func stockMove(number uint64, p *product, store, kind string, quantity int, reference string, moved time.Time) []byte {
	ref := "null"
	if reference != "" {
		ref = strconv.Quote(reference)
	}
	return fmt.Appendf(nil,
		`{"move":"M%d","sku":%q,"category":%q,"store":%q,"kind":%q,"quantity":%d,"reference":%s,"moved_at":%q}`,
		number, p.sku, p.category, store, kind, quantity, ref, stamp(moved))
}

// price writes cents as a decimal number: -5 is -0.05.
func price(cents int64) string {
	sign := ""
	if cents < 0 {
		sign, cents = "-", -cents
	}
	return fmt.Sprintf("%s%d.%02d", sign, cents/100, cents%100)
}

// stamp is RFC 3339 in UTC with microseconds.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z07:00") }
