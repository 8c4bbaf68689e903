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
	"path/filepath"
	"runtime/debug"
	"time"

	"duet/internal/node"
	"duet/schemas/project"
	"duet/schemas/retail"
)

// stopWithin bounds how long a stopping server waits for running calls.
const stopWithin = 10 * time.Second

type upCommand struct {
	Project     string `help:"Project folder (default: the current folder, if it has a duet.yaml)." type:"path" placeholder:"DIR"`
	Data        string `help:"Data folder; Duet writes nowhere else (default: ./duet-data, with --demo ./duet-demo)." type:"path" placeholder:"DIR"`
	GRPC        string `name:"grpc" help:"Address of the gRPC services." placeholder:"ADDR" default:"127.0.0.1:7401"`
	HTTP        string `name:"http" help:"Address of the page, JSON and metrics." placeholder:"ADDR" default:"127.0.0.1:7400"`
	AllowRemote bool   `help:"Allow addresses that other machines can reach; there is neither authentication nor TLS yet."`
	Demo        bool   `help:"Run a simulated shop: three weeks of history, then orders, payments and stock moves as they happen."`
	Ephemeral   bool   `help:"Use a temporary data folder and free ports; print the addresses as JSON."`
	Drain       bool   `help:"Archive every event of the log, answer nothing, and end. Another version of Duet can then start."`
	Redecode    bool   `help:"Let this version decode events that another version decoded and that are not archived; report what changes."`
	Verbose     bool   `short:"v" help:"Log routine events too."`
}

// Run runs the server until a signal or a failure ends it.
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
	which := u.Project
	if u.Demo {
		which = "the packaged retail project"
	}
	cfg.Log.Info("running a project", "project", which, "data", cfg.Data)
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
	if u.Demo && !u.Drain {
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
			if !n.Ready() { // the start was refused, with what to do
				return no("%w", err)
			}
			return err
		case <-n.Drained():
			return nil
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

// config returns the node's configuration and sets u.Project to the project's
// folder, unless the demo's own project runs.
func (u *upCommand) config(log io.Writer) (node.Config, error) {
	level := slog.LevelInfo
	if u.Verbose {
		level = slog.LevelDebug
	}
	cfg := node.Config{
		Data: u.Data, GRPC: u.GRPC, HTTP: u.HTTP, AllowRemote: u.AllowRemote, Version: version,
		Drain: u.Drain, Redecode: u.Redecode,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level})),
	}
	switch {
	case u.Demo && u.Project != "":
		return cfg, usageError("--demo runs its own project; omit --project")
	case u.Ephemeral && u.Data != "":
		return cfg, usageError("--ephemeral creates a data folder of its own; omit --data")
	case u.Demo:
		cfg.Project = retail.Files()
	default:
		if err := u.findProject(); err != nil {
			return cfg, err
		}
		cfg.Project = os.DirFS(u.Project)
	}
	if cfg.Data == "" {
		cfg.Data = "duet-data"
		if u.Demo {
			cfg.Data = "duet-demo"
		}
		var err error
		if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// findProject checks the folder of --project, or sets it to the current folder
// if that is a project.
func (u *upCommand) findProject() error {
	if u.Project != "" {
		info, err := os.Stat(u.Project)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			return usageError("--project %s is not a folder; create a project there with duet init %s", u.Project, u.Project)
		}
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat("duet.yaml"); err != nil {
		return usageError("there is no duet.yaml in this folder: change to a project's folder or name it with --project DIR, create one with duet init DIR, or start the demo with duet up --demo")
	}
	u.Project = here
	return nil
}
