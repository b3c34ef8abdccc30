// Package clientv3 uses a server through etcd's own Go client and its concurrency package, and in the way in which a
// Kubernetes API server does.
package clientv3

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

var endpoint = flag.String("endpoint", "", "host:port of the server")

func TestMain(m *testing.M) {
	flag.Parse()
	if *endpoint == "" {
		println("-args -endpoint=HOST:PORT is missing")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

func newClient(t *testing.T) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{*endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}
