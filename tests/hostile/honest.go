package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// honest is a client that puts and gets over one connection, and wants every call to succeed with what it put.
type honest struct {
	connection *grpc.ClientConn
	client     pb.KVClient
}

func newHonest(endpoint string) (*honest, error) {
	connection, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &honest{connection: connection, client: pb.NewKVClient(connection)}, nil
}

func (h *honest) close() { _ = h.connection.Close() }

// felt is what a client saw in a time.
type felt struct {
	sync.Mutex
	took   []time.Duration
	errors []error
}

// work puts and gets until the context ends.
func (h *honest) work(ctx context.Context, felt *felt) {
	var wait sync.WaitGroup
	loop := func(call func(context.Context, int) error) {
		wait.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				began := time.Now()
				// An error must be the server's: a call has far more time than it needs.
				bounded, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				err := call(bounded, n)
				cancel()
				felt.Lock()
				felt.took = append(felt.took, time.Since(began))
				if err != nil {
					felt.errors = append(felt.errors, err)
				}
				felt.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	loop(func(ctx context.Context, n int) error {
		_, err := h.client.Put(ctx, &pb.PutRequest{Key: []byte("honest"), Value: fmt.Appendf(nil, "value %d", n)})
		return err
	})
	loop(func(ctx context.Context, n int) error {
		answer, err := h.client.Range(ctx, &pb.RangeRequest{Key: []byte("honest")})
		if err == nil && n > 100 && len(answer.Kvs) != 1 {
			err = fmt.Errorf("get %d found %d keys", n, len(answer.Kvs))
		}
		return err
	})
	wait.Wait()
}

func (f *felt) at(percent int) time.Duration {
	if len(f.took) == 0 {
		return 0
	}
	slices.Sort(f.took)
	return f.took[(len(f.took)-1)*percent/100]
}

// raw sends bytes as the message of a unary call and tells its status as a number.
func (h *honest) raw(path string, message []byte) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var answer []byte
	err := h.connection.Invoke(ctx, path, message, &answer, grpc.ForceCodec(asIs{}), grpc.MaxCallSendMsgSize(8<<20))
	return fmt.Sprint(uint32(status.Code(err)))
}

// asIs is a codec for messages that are bytes already.
type asIs struct{}

func (asIs) Marshal(message any) ([]byte, error) { return message.([]byte), nil }

func (asIs) Unmarshal(bytes []byte, into any) error {
	*into.(*[]byte) = slices.Clone(bytes)
	return nil
}

func (asIs) Name() string { return "proto" }
