//go:build !linux

package durable

// Evict does nothing: this system has no way to drop cached pages.
func Evict(string) error { return nil }
