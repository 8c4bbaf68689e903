package shop

import (
	"fmt"
	"strconv"
	"time"
)

// This file writes the records of the packaged retail project's streams as JSON
// objects. No string of the shop needs escaping.

// An orderHead holds what the lines of an order share.
type orderHead struct {
	invoice  string
	customer int64 // 0 for a guest
	shop     string
	channel  string
	country  string
	returns  string // the order that a return refers to; "" for a sale
	sold     time.Time
}

// line returns one order line.
func (o orderHead) line(number int, item sold) []byte {
	return o.fields(number, item, strconv.Itoa(item.quantity), price(item.product.cents))
}

// fields returns an order line with quantity and price as given, which may be
// malformed. The member "returns" is not a column of the project: undeclared
// members are kept.
func (o orderHead) fields(number int, item sold, quantity, unitPrice string) []byte {
	customer, returns := "null", ""
	if o.customer != 0 {
		customer = strconv.FormatInt(o.customer, 10)
	}
	if o.returns != "" {
		returns = fmt.Sprintf(`,"returns":%q`, o.returns)
	}
	return fmt.Appendf(nil,
		`{"order_id":%q,"line":%d,"sold_at":%q,"shop":%q,"country":%q,"channel":%q,"sku":%q,"product":%q,"category":%q,"quantity":%s,"unit_price":%s,"discount":%s,"customer":%s%s}`,
		o.invoice, number, stamp(o.sold), o.shop, o.country, o.channel, item.product.sku, item.product.name, item.product.category,
		quantity, unitPrice, price(item.discount), customer, returns)
}

// payment returns the payment of an order, or the refund of a return; feeCents
// is the fee of the method.
func (o orderHead) payment(method string, cents, feeCents int64, paid time.Time) []byte {
	return fmt.Appendf(nil,
		`{"payment_id":%q,"order_id":%q,"paid_at":%q,"shop":%q,"country":%q,"method":%q,"amount":%s,"fee":%s}`,
		"P"+o.invoice, o.invoice, stamp(paid), o.shop, o.country, method, price(cents), price(feeCents))
}

// stockMove returns a change of one store's stock of one product.
func stockMove(p *product, shop, reason string, pieces int, moved time.Time) []byte {
	return fmt.Appendf(nil, `{"moved_at":%q,"shop":%q,"sku":%q,"reason":%q,"pieces":%d}`, stamp(moved), shop, p.sku, reason, pieces)
}

// price formats cents as a decimal number: -5 is -0.05.
func price(cents int64) string {
	sign := ""
	if cents < 0 {
		sign, cents = "-", -cents
	}
	return fmt.Sprintf("%s%d.%02d", sign, cents/100, cents%100)
}

// stamp formats t as RFC 3339 in UTC with microseconds.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z07:00") }
