package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/probe"
	"ringstone.test/internal/server"
)

const (
	workers = 16
	batch   = 64
	// One key in so many stays.
	kept = 5
	// Clients that put while latencies are measured, each one call after the other.
	clients = 4
)

type store struct {
	settings   settings
	server     *server.Server
	connection *grpc.ClientConn
	// Keys with a number below this were put.
	keys int
}

type figures struct{ file, inUse int64 }

func newStore(s settings) (*store, error) {
	folder, err := server.TemporaryFolder("shrink-")
	if err != nil {
		return nil, err
	}
	child, err := server.New(s.program+" serve", folder, "--quota-backend-bytes=-1", "--log-level=info")
	if err == nil {
		err = child.Start(30 * time.Second)
	}
	if err != nil {
		_ = os.RemoveAll(folder)
		return nil, err
	}
	connection, err := server.Dial(child.Endpoint)
	return &store{settings: s, server: child, connection: connection}, err
}

func (s *store) remove() {
	s.server.Kill()
	_ = os.RemoveAll(s.server.Folder)
}

// said are the lines of the server's log with these words.
func (s *store) said(words string) string {
	content, _ := os.ReadFile(filepath.Join(s.server.Folder, "log"))
	var lines []string
	for line := range strings.Lines(string(content)) {
		if strings.Contains(line, words) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func (s *store) pageFile() string { return filepath.Join(s.server.Data, "member", "pages-0") }

// figures are the file's length as the kernel has it, and what the server says to be in use.
func (s *store) figures() (figures, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	status, err := pb.NewMaintenanceClient(s.connection).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return figures{}, err
	}
	info, err := os.Stat(s.pageFile())
	if err != nil {
		return figures{}, err
	}
	return figures{info.Size(), status.DbSizeInUse}, nil
}

// key spreads numbers over the tree, so that what stays stands among what goes.
func key(number int) []byte {
	hash := sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(number)))
	return fmt.Appendf(nil, "shrink/%x", hash[:10])
}

func (s *store) value(number int) []byte {
	value := make([]byte, s.settings.valueBytes)
	rand.New(rand.NewSource(int64(number))).Read(value)
	return value
}

// each makes a transaction of so many operations for batches of numbers, on several connections' worth of streams.
func (s *store) each(from, to int, operation func(number int) *pb.RequestOp) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var group sync.WaitGroup
	failures := make(chan error, workers)
	for worker := range workers {
		group.Go(func() {
			for first := from + worker*batch; first < to; first += workers * batch {
				txn := &pb.TxnRequest{}
				for number := first; number < min(first+batch, to); number++ {
					if op := operation(number); op != nil {
						txn.Success = append(txn.Success, op)
					}
				}
				if _, err := pb.NewKVClient(s.connection).Txn(ctx, txn); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(failures)
	return <-failures
}

// fill puts all keys, and new ones until the file has so many bytes.
func (s *store) fill(bytes int64) error {
	began := time.Now()
	put := func(number int) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key(number), Value: s.value(number)}}}
	}
	if err := s.each(0, s.keys, put); err != nil {
		return err
	}
	for {
		now, err := s.figures()
		if err != nil {
			return err
		}
		if now.file >= bytes {
			fmt.Printf("%d keys in %v, the file has %d MiB\n", s.keys, time.Since(began).Round(100*time.Millisecond), now.file>>20)
			return nil
		}
		more := max(1000, int((bytes-now.inUse)/int64(s.settings.valueBytes)/8))
		if err := s.each(s.keys, s.keys+more, put); err != nil {
			return err
		}
		s.keys += more
	}
}

// deleteMost deletes four keys of five and compacts; it returns when the sweep is done.
func (s *store) deleteMost() error {
	began := time.Now()
	err := s.each(0, s.keys, func(number int) *pb.RequestOp {
		if number%kept == 0 {
			return nil
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key(number)}}}
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	kv := pb.NewKVClient(s.connection)
	answer, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("shrink")})
	if err == nil {
		_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: answer.Header.Revision, Physical: true})
	}
	fmt.Printf("four keys of five deleted and compacted in %v\n", time.Since(began).Round(100*time.Millisecond))
	return err
}

// puts measures puts to keys that stay, with the values that they have, until the end.
func (s *store) puts(end <-chan time.Time) (probe.Latencies, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	spread := s.keys / kept
	if s.settings.hot > 0 {
		spread = min(spread, s.settings.hot)
	}
	took := make([]probe.Latencies, clients)
	failures := make(chan error, clients)
	for client := range clients {
		group.Go(func() {
			connection, err := grpc.NewClient("passthrough:///"+s.server.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				failures <- err
				return
			}
			defer connection.Close()
			kv, random := pb.NewKVClient(connection), rand.New(rand.NewSource(int64(client)))
			for ctx.Err() == nil {
				number := random.Intn(spread) * kept
				put := &pb.PutRequest{Key: key(number), Value: s.value(number)}
				began := time.Now()
				if _, err := kv.Put(context.Background(), put); err != nil {
					failures <- err
					return
				}
				took[client] = append(took[client], time.Since(began))
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	<-end
	cancel()
	group.Wait()
	close(failures)
	all := slices.Concat(took...)
	slices.Sort(all)
	return all, <-failures
}

// check reads all that must be there.
func (s *store) check(when string, judge *judge) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	kv := pb.NewKVClient(s.connection)
	found, wrong := 0, 0
	from := []byte("shrink/")
	for {
		answer, err := kv.Range(ctx, &pb.RangeRequest{Key: from, RangeEnd: []byte("shrink0"), Limit: 1000})
		if err != nil {
			return err
		}
		for _, kv := range answer.Kvs {
			found++
			if len(kv.Value) != s.settings.valueBytes {
				wrong++
			}
		}
		if !answer.More {
			break
		}
		from = append(answer.Kvs[len(answer.Kvs)-1].Key, 0)
	}
	for number := 0; number < s.keys; number += kept * 97 {
		answer, err := kv.Range(ctx, &pb.RangeRequest{Key: key(number)})
		if err != nil {
			return err
		}
		if len(answer.Kvs) != 1 || !bytes.Equal(answer.Kvs[0].Value, s.value(number)) {
			wrong++
		}
	}
	expected := (s.keys + kept - 1) / kept
	judge.that(found == expected && wrong == 0, "%s: %d keys of %d are there, %d wrong", when, found, expected, wrong)
	return nil
}
