// Package torture kills a running Duet and checks that its answers stay exact.
//
// The tests start the real binary as a child process. Producers send numbered
// events over gRPC and readers query continuously, while the child is killed
// with SIGKILL at random moments or at named steps. After each restart every
// view must equal plain DuckDB over all acknowledged events, to the last digit,
// with each event counted once, and the accounts must add up. All randomness
// comes from one seed, which is printed.
package torture
