package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/probe"
	"ringstone.test/internal/server"
)

const (
	workers = 16
	batch   = 64
	clients = 4
	// Keys of one answer to the scan.
	page = 500
	// POSIX_FADV_DONTNEED.
	dontNeed = 4
)

type store struct {
	settings settings
	server   *server.Server
	keys     int
}

func start(s settings, command, folder string) (*server.Server, error) {
	child, err := server.New(command, folder, "--quota-backend-bytes=-1", "--log-level=info", fmt.Sprintf("--memory-limit=%d", s.memoryLimit))
	if err != nil {
		return nil, err
	}
	return child, child.Start(time.Minute)
}

func key(number int) []byte {
	hash := sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(number)))
	return fmt.Appendf(nil, "memory/%x", hash[:10])
}

func value(number, bytes int) []byte {
	value := make([]byte, bytes)
	rand.New(rand.NewSource(int64(number))).Read(value)
	return value
}

// fill makes the store outside of the group, and empties the page cache of it: what is cached would count for whoever
// read it first.
func fill(s settings, command, folder string) (keys int, err error) {
	child, err := start(s, command, folder)
	if err != nil {
		return 0, err
	}
	defer child.Kill()
	connection, err := server.Dial(child.Endpoint)
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	began := time.Now()
	for {
		status, err := pb.NewMaintenanceClient(connection).Status(context.Background(), &pb.StatusRequest{})
		if err != nil {
			return 0, err
		}
		missing := s.storeMiB<<20 - status.DbSizeInUse
		if missing <= 0 {
			break
		}
		more := max(1000, int(missing/int64(s.valueBytes)/8))
		if err := put(connection, s, keys, keys+more); err != nil {
			return 0, err
		}
		keys += more
	}
	fmt.Printf("%d keys, %d MiB in %v\n", keys, s.storeMiB, time.Since(began).Round(100*time.Millisecond))
	if err := child.Stop(time.Minute); err != nil {
		return 0, err
	}
	pages := filepath.Join(child.Data, "member", "pages-0")
	file, err := os.OpenFile(pages, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return 0, err
	}
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, file.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
		return 0, errno
	}
	return keys, nil
}

func put(connection *grpc.ClientConn, s settings, from, to int) error {
	var group sync.WaitGroup
	failures := make(chan error, workers)
	for worker := range workers {
		group.Go(func() {
			for first := from + worker*batch; first < to; first += workers * batch {
				txn := &pb.TxnRequest{}
				for number := first; number < min(first+batch, to); number++ {
					put := &pb.PutRequest{Key: key(number), Value: value(number, s.valueBytes)}
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				if _, err := pb.NewKVClient(connection).Txn(context.Background(), txn); err != nil {
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

// scan reads all keys with their values, again and again.
type scan struct{ keys int64 }

func (c *scan) run(ctx context.Context, connection *grpc.ClientConn) error {
	kv := pb.NewKVClient(connection)
	first := []byte("memory/")
	from := first
	for ctx.Err() == nil {
		answer, err := kv.Range(context.Background(), &pb.RangeRequest{Key: from, RangeEnd: []byte("memory0"), Limit: page, Serializable: true})
		if err != nil {
			return err
		}
		c.keys += int64(len(answer.Kvs))
		from = first
		if answer.More {
			from = append(answer.Kvs[len(answer.Kvs)-1].Key, 0)
		}
	}
	return nil
}

// measured puts for a while, beside a scan where there is one, and says what it saw.
func (s *store) measured(what string, group *cgroup, scan *scan, span time.Duration) (figures, error) {
	before, err := s.faults()
	if err != nil {
		return figures{}, err
	}
	reclaimed := reclaimedPages()
	puts, err := s.puts(scan, span)
	if err != nil {
		return figures{}, fmt.Errorf("%w\n%s", err, s.server.LogTail())
	}
	after, err := s.faults()
	if err != nil {
		return figures{}, err
	}
	found := figures{puts: puts, faults: after - before, reclaimed: reclaimedPages() - reclaimed}
	if scan != nil {
		found.scanned = scan.keys
	}
	fmt.Printf("%s: %d, %v; %d keys/s scanned; %d major faults of executors; the group has %d MiB\n", what, len(puts), puts, found.scanned/int64(s.settings.seconds), found.faults, group.usageMiB())
	return found, nil
}

func (s *store) puts(scan *scan, span time.Duration) (probe.Latencies, error) {
	ctx, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	var group sync.WaitGroup
	took := make([]probe.Latencies, clients)
	failures := make(chan error, clients+1)
	if scan != nil {
		group.Go(func() {
			connection, err := server.Dial(s.server.Endpoint)
			if err == nil {
				err = scan.run(ctx, connection)
				connection.Close()
			}
			if err != nil {
				failures <- err
			}
		})
	}
	for client := range clients {
		group.Go(func() {
			connection, err := server.Dial(s.server.Endpoint)
			if err != nil {
				failures <- err
				return
			}
			defer connection.Close()
			kv, random := pb.NewKVClient(connection), rand.New(rand.NewSource(int64(client)))
			for ctx.Err() == nil {
				number := random.Intn(s.keys)
				put := &pb.PutRequest{Key: key(number), Value: value(number, s.settings.valueBytes)}
				began := time.Now()
				if _, err := kv.Put(context.Background(), put); err != nil {
					failures <- err
					return
				}
				took[client] = append(took[client], time.Since(began))
				time.Sleep(4 * time.Millisecond)
			}
		})
	}
	group.Wait()
	close(failures)
	all := slices.Concat(took...)
	slices.Sort(all)
	return all, <-failures
}

func reclaimedPages() int64 {
	content, _ := os.ReadFile("/proc/vmstat")
	for line := range strings.Lines(string(content)) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == "pgsteal_kswapd" {
			pages, _ := strconv.ParseInt(words[1], 10, 64)
			return pages
		}
	}
	return 0
}

// pagesOut tells whether DAMON watches this machine's memory and gives cold pages back: those that were written and not touched
// since among them.
func pagesOut() bool {
	says := func(path, word string) bool {
		content, err := os.ReadFile(path)
		return err == nil && strings.TrimSpace(string(content)) == word
	}
	if says("/sys/module/damon_reclaim/parameters/enabled", "Y") {
		return true
	}
	daemons, _ := filepath.Glob("/sys/kernel/mm/damon/admin/kdamonds/[0-9]*")
	for _, daemon := range daemons {
		actions, _ := filepath.Glob(daemon + "/contexts/*/schemes/*/action")
		if says(daemon+"/state", "on") && slices.ContainsFunc(actions, func(path string) bool { return says(path, "pageout") }) {
			return true
		}
	}
	return false
}

// faults are the major faults of all threads but the one that gives memory back.
func (s *store) faults() (int64, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.server.Pid()))
	if err != nil || len(threads) == 0 {
		return 0, errors.Join(err, errors.New("the server is gone"))
	}
	var total int64
	for _, thread := range threads {
		content, err := os.ReadFile(thread)
		if err != nil {
			continue
		}
		// The name is in brackets and may hold blanks; major faults are the tenth field behind it.
		name, rest, found := strings.Cut(string(content), ") ")
		fields := strings.Fields(rest)
		if !found || len(fields) < 10 {
			return 0, fmt.Errorf("%s: %s", thread, content)
		}
		_, name, _ = strings.Cut(name, "(")
		if os.Getenv("MEMORY_THREADS") != "" {
			fmt.Println(name, fields[9])
		}
		// The main thread reads the program itself at its start, and serves nobody.
		if name == "evictor" || filepath.Base(filepath.Dir(thread)) == strconv.Itoa(s.server.Pid()) {
			continue
		}
		faults, err := strconv.ParseInt(fields[9], 10, 64)
		if err != nil {
			return 0, err
		}
		total += faults
	}
	return total, nil
}

// toldFaults is what /metrics says of them.
func (s *store) toldFaults() (int64, error) {
	answer, err := http.Get("http://" + s.server.Endpoint + "/metrics")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	total, found := 0.0, false
	for line := range strings.Lines(string(body)) {
		if words := strings.Fields(line); len(words) == 2 && strings.HasPrefix(words[0], "ringstone_shard_major_faults_total") {
			faults, err := strconv.ParseFloat(words[1], 64)
			if err != nil {
				return 0, err
			}
			total, found = total+faults, true
		}
	}
	if !found {
		return 0, errors.New("/metrics does not tell major faults")
	}
	return int64(total), nil
}
