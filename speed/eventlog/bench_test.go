package eventlog

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"duet/schemas/event"
)

var benchRecord = []byte(`{"invoice":"536365","line":1,"StockCode":"85123A","quantity":6,"price":"2.5500","customer":17850,"country":"United Kingdom","InvoiceDate":"12/1/2010 8:26","description":"WHITE HANGING HEART T-LIGHT HOLDER"}`)

func benchEnvelope(events int) []byte {
	records := make([][]byte, events)
	for i := range records {
		records[i] = benchRecord
	}
	return event.AppendEnvelope(nil, "orders", []event.Run{{Count: uint32(events)}}, records)
}

// BenchmarkPublish compares a synchronous Append with JetStream's own
// synchronous publish on the same server.
func BenchmarkPublish(b *testing.B) {
	for _, events := range []int{1, 100, 1000} {
		envelope := benchEnvelope(events)
		run := func(b *testing.B, publish func(*Log) error) {
			l := mustOpen(b, config(b, 4<<30))
			b.SetBytes(int64(len(envelope)))
			for b.Loop() {
				if err := publish(l); err != nil {
					b.Fatal(err)
				}
				if used, limit := l.Usage(); used > limit/2 {
					b.StopTimer()
					if err := l.trim(context.Background(), l.Last(), 0, 0); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		}
		b.Run(fmt.Sprintf("%d/append", events), func(b *testing.B) {
			run(b, func(l *Log) error {
				_, err := l.Append(context.Background(), "orders", envelope)
				return err
			})
		})
		b.Run(fmt.Sprintf("%d/raw", events), func(b *testing.B) {
			run(b, func(l *Log) error {
				_, err := l.eng.js.Publish(context.Background(), eventPrefix+"orders", envelope)
				return err
			})
		})
	}
}

// BenchmarkAppender has 16 clients that each wait for their answer.
func BenchmarkAppender(b *testing.B) {
	for _, events := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(events), func(b *testing.B) {
			l := mustOpen(b, config(b, 8<<30))
			d := NewAppender(l, nil)
			defer d.Close()
			records := make([][]byte, events)
			for i := range records {
				records[i] = benchRecord
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for c := range 16 {
				wg.Go(func() {
					name, number := fmt.Sprint("p", c), uint64(1)
					for left.Add(-1) >= 0 {
						if _, err := d.Append(context.Background(), Request{Stream: "orders", Records: records, Producer: name, Number: number}); err != nil {
							b.Error(err)
							return
						}
						number += uint64(events)
						if used, limit := l.Usage(); used > limit/2 {
							if err := l.trim(context.Background(), l.Last(), 0, 0); err != nil {
								b.Error(err)
							}
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(b.N)/float64(l.Last().Sequence()-1), "requests/envelope")
		})
	}
}

// BenchmarkRead compares the Reader with JetStream's ordered consumer.
func BenchmarkRead(b *testing.B) {
	for _, events := range []int{1, 1000} {
		envelope := benchEnvelope(events)
		l := mustOpen(b, config(b, 1<<30))
		count := min(20_000, 400<<20/len(envelope))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range count / 4 {
					mustAppend(b, l, "orders", envelope)
				}
			})
		}
		wg.Wait()
		total := int(l.Last().Sequence())
		report := func(b *testing.B) {
			b.ReportMetric(float64(total)*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		}
		b.Run(fmt.Sprintf("%d/reader", events), func(b *testing.B) {
			for b.Loop() {
				r, err := l.Read(context.Background(), 0)
				if err != nil {
					b.Fatal(err)
				}
				for range total {
					if _, err := r.Next(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
				r.Close()
			}
			report(b)
		})
		b.Run(fmt.Sprintf("%d/ordered", events), func(b *testing.B) {
			for b.Loop() {
				c, err := l.eng.js.OrderedConsumer(context.Background(), streamName, jetstream.OrderedConsumerConfig{})
				if err != nil {
					b.Fatal(err)
				}
				it, err := c.Messages(jetstream.PullMaxMessages(512))
				if err != nil {
					b.Fatal(err)
				}
				for range total {
					if _, err := it.Next(); err != nil {
						b.Fatal(err)
					}
				}
				it.Stop()
			}
			report(b)
		})
	}
}
