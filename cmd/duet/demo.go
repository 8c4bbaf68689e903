package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"duet/internal/client"
	"duet/internal/node"
	"duet/internal/shop"
)

// demoSeed is fixed: every new demo has the same history.
const demoSeed = 1

// runDemo feeds the server from a simulated shop over gRPC: first its history,
// as fast as possible, then events as they happen. It runs until ctx ends.
func runDemo(ctx context.Context, t *terminal, line *statusLine, n *node.Node, data string) error {
	c, err := client.Dial(n.GRPCAddr())
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprint(t.out, banner(n, data))
	live := false
	driver, err := shop.NewDriver(shop.DriverConfig{
		Client: c, State: filepath.Join(data, "shop.json"), Seed: demoSeed,
		Progress: func(p shop.Progress) {
			switch {
			case live:
			case p.Live:
				live = true
				fmt.Fprintf(line, "the shop is open: %s events of history are loaded, new ones arrive as they happen\n", count(int64(p.Events)))
			default:
				line.show(fmt.Sprintf("history: %3.0f %%, %s events, through %s", p.Done*100, count(int64(p.Events)), p.Through.Format(time.DateOnly)))
			}
		},
	})
	if err != nil {
		return err
	}
	return driver.Run(ctx)
}

// banner returns what to try next.
func banner(n *node.Node, data string) string {
	var b strings.Builder
	addr := ""
	if n.GRPCAddr() != client.DefaultAddr {
		addr = " --addr " + n.GRPCAddr()
	}
	self := os.Args[0]
	if filepath.Base(self) == self {
		self = "duet"
	}
	line := func(what, how string) { fmt.Fprintf(&b, "  %-16s %s\n", what, how) }
	fmt.Fprintf(&b, "\nA live shop; its data folder is %s\n\n", data)
	line("page", "http://"+n.HTTPAddr()+"/")
	line("query", self+" query revenue_by_country --order-by revenue --desc --limit 5"+addr)
	line("status", self+" status"+addr)
	line("JSON", "curl -s -H 'Content-Type: application/json' -d '{\"view\":\"revenue_by_country\",\"limit\":3}' http://"+n.HTTPAddr()+"/duet.v1.ViewService/Query")
	line("try to break it", fmt.Sprintf("kill -9 %d, then start it again: the totals stay", os.Getpid()))
	line("clean up", "Ctrl-C, then rm -r "+data)
	b.WriteString("\n")
	return b.String()
}
