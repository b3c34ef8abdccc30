//go:build tools

// Package control pins the official etcd programs that Ringstone is compared with; build.sh builds them.
package control

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/etcdutl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
