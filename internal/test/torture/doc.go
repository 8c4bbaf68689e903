// Package torture kills a running Duet and looks whether its answers stay
// exact.
//
// The driver starts the real binary as a child process, lets producers send
// numbered events through the public door, readers query all the time, and
// kills the child with SIGKILL at random moments or at named steps. After each
// restart every view must equal plain DuckDB over all the events that were
// acknowledged, to the last digit, each event once, and the account must add
// up. Everything random comes from one seed, which is printed.
package torture
