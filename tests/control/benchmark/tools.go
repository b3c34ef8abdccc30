//go:build tools

// Package benchmark pins etcd's own load generator. It lives in etcd's root module, whose newest published version is
// older than the server's; a module of its own keeps the two sets of dependencies apart.
package benchmark

import _ "go.etcd.io/etcd/v3/tools/benchmark"
