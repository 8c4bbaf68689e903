package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"duet/internal/node"
	"duet/schemas/project"
	"duet/schemas/retail"
)

// stopWithin bounds how long a stopping server waits for running calls.
const stopWithin = 10 * time.Second

type upCommand struct {
	Project     string `help:"The project's folder; the packaged retail project if not given." type:"path" placeholder:"DIR"`
	Data        string `help:"The data folder; nothing is written elsewhere. Default: ./duet-data, or ./duet-demo with --demo." type:"path" placeholder:"DIR"`
	GRPC        string `name:"grpc" help:"Address of the gRPC services." placeholder:"ADDR" default:"127.0.0.1:7401"`
	HTTP        string `name:"http" help:"Address of the page, JSON and metrics." placeholder:"ADDR" default:"127.0.0.1:7400"`
	AllowRemote bool   `help:"Listen also where other machines reach it; there is neither TLS nor a login yet."`
	Demo        bool   `help:"A live shop: made-up orders, stock moves and payments, some weeks of history first."`
	Ephemeral   bool   `help:"In a temporary folder, on free ports, which are printed as JSON."`
	Verbose     bool   `short:"v" help:"Log also what is routine."`
}

// Run runs the platform until a signal or a failure ends it.
func (u *upCommand) Run(ctx context.Context, t *terminal) (err error) {
	line := newStatusLine(t.err) // the demo's; the log does not write into it
	cfg, err := u.config(line)
	if err != nil {
		return err
	}
	if u.Ephemeral {
		if cfg.Data, err = os.MkdirTemp("", "duet-"); err != nil {
			return err
		}
		defer os.RemoveAll(cfg.Data)
		cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	}
	// Ingest makes much short-lived garbage. Collecting half as often costs a few
	// hundred megabytes and saves a tenth of a core.
	debug.SetGCPercent(200)
	n, err := node.New(cfg)
	var faults project.Faults
	if errors.As(err, &faults) {
		return &exitError{exitNo, fmt.Errorf("the project has faults; nothing was started:\n%w", faults)}
	}
	if err != nil {
		return no("%w", err)
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		n.Stop(stop)
	}()
	if err := n.Start(context.WithoutCancel(ctx)); err != nil {
		return no("%w", err)
	}
	cfg.Log.Info("listening", "grpc", n.GRPCAddr(), "http", "http://"+n.HTTPAddr()+"/")
	if err := u.printAddresses(t, n); err != nil {
		return err
	}
	shop := make(chan error, 1)
	if u.Demo {
		go func() { shop <- runDemo(ctx, t, line, n, cfg.Data) }()
	}
	for {
		select {
		case err := <-shop:
			if err != nil && ctx.Err() == nil {
				return err
			}
			shop = nil
		case err := <-n.Failed():
			return err
		case <-ctx.Done():
			cfg.Log.Info("stopping")
			return nil
		}
	}
}

// printAddresses prints the addresses as JSON for programs, unless they are
// those of the flags.
func (u *upCommand) printAddresses(t *terminal, n *node.Node) error {
	if !u.Ephemeral && n.GRPCAddr() == u.GRPC && n.HTTPAddr() == u.HTTP {
		return nil
	}
	return json.NewEncoder(t.out).Encode(struct {
		GRPC string `json:"grpc"`
		HTTP string `json:"http"`
		PID  int    `json:"pid"`
	}{n.GRPCAddr(), n.HTTPAddr(), os.Getpid()})
}

func (u *upCommand) config(log io.Writer) (node.Config, error) {
	level := slog.LevelInfo
	if u.Verbose {
		level = slog.LevelDebug
	}
	cfg := node.Config{
		Project: retail.Files(), Data: u.Data, GRPC: u.GRPC, HTTP: u.HTTP, AllowRemote: u.AllowRemote, Version: version,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level})),
	}
	switch {
	case u.Demo && u.Project != "":
		return cfg, usageError("--demo brings its own project; leave --project out")
	case u.Ephemeral && u.Data != "":
		return cfg, usageError("--ephemeral makes a data folder of its own; leave --data out")
	case u.Project != "":
		if fi, err := os.Stat(u.Project); errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
			return cfg, usageError("--project %s is not a folder; duet init %s makes one", u.Project, u.Project)
		} else if err != nil {
			return cfg, err
		}
		cfg.Project = os.DirFS(u.Project)
	}
	if cfg.Data == "" {
		cfg.Data = "duet-data"
		if u.Demo {
			cfg.Data = "duet-demo"
		}
	}
	return cfg, nil
}
