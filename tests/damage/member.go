package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

type outcome int

const (
	right outcome = iota
	refused
	found
	ended
)

// member is what is damaged: its files now, some time before, and those of another one; and what it holds.
type member struct {
	server               *server.Server
	base, older, foreign image
	names                []string
	used                 map[string][]int64
	newest               string
	keys                 []*mvccpb.KeyValue
	before               []*mvccpb.KeyValue // at revision `middle`
	since                []string           // events behind it
	middle, revision     int64
	answered, refused    int
}

const startBound = 60 * time.Second

func dial(endpoint string) *grpc.ClientConn {
	connection, err := server.Dial(endpoint)
	if err != nil {
		panic(err) // only malformed targets do this
	}
	return connection
}

func key(n int) []byte { return []byte(fmt.Sprintf("key%06d", n)) }

// fill puts keys in transactions, replaces some and deletes some.
func fill(endpoint string, from, to int, random *rand.Rand) error {
	connection := dial(endpoint)
	defer connection.Close()
	client := pb.NewKVClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for n := from; n < to; n += 50 {
		txn := &pb.TxnRequest{}
		for at := n; at < min(n+50, to); at++ {
			value := make([]byte, 50+random.Intn(600))
			if at%100 == 7 {
				value = make([]byte, 20_000)
			}
			random.Read(value)
			put := &pb.PutRequest{Key: key(at), Value: value}
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		if _, err := client.Txn(ctx, txn); err != nil {
			return err
		}
		if _, err := client.Put(ctx, &pb.PutRequest{Key: key(random.Intn(n + 1)), Value: []byte("replaced")}); err != nil {
			return err
		}
		if _, err := client.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key(random.Intn(n + 1))}); err != nil {
			return err
		}
	}
	return nil
}

// makeMember runs two lives of a server and keeps their files; and those of another member.
func makeMember(command, folder string, keys int) (*member, error) {
	m := &member{used: map[string][]int64{}}
	another := filepath.Join(folder, "another")
	if err := os.MkdirAll(another, 0o700); err != nil {
		return nil, err
	}
	other, err := server.New(command, another, "--shards=1")
	if err != nil {
		return nil, err
	}
	if err := other.Start(startBound); err != nil {
		return nil, err
	}
	err = fill(other.Endpoint, 0, 200, rand.New(rand.NewSource(2)))
	other.Kill()
	if err != nil {
		return nil, err
	}
	if m.foreign, err = readImage(other.Data); err != nil {
		return nil, err
	}
	random := rand.New(rand.NewSource(1))
	if m.server, err = server.New(command, folder, "--shards=1"); err != nil {
		return nil, err
	}
	for life, at := range []int{keys / 2, keys * 8 / 10, keys} {
		if err := m.server.Start(startBound); err != nil {
			return nil, err
		}
		from := []int{0, keys / 2, keys * 8 / 10}[life]
		if err := fill(m.server.Endpoint, from, at, random); err != nil {
			return nil, err
		}
		if life == 2 {
			if err := m.note(); err != nil {
				return nil, err
			}
			// The closing block comes after 10 ms.
			time.Sleep(500 * time.Millisecond)
			m.server.Kill()
		} else if err := m.server.Stop(startBound); err != nil {
			return nil, err
		}
		if life == 1 {
			continue
		}
		files, err := readImage(m.server.Data)
		if err != nil {
			return nil, err
		}
		m.older, m.base = m.base, files
	}
	delete(m.base, filepath.Join("member", "lock"))
	var segments []string
	for name, file := range m.base {
		m.names = append(m.names, name)
		for block := range file.blocks {
			m.used[name] = append(m.used[name], block)
		}
		sort.Slice(m.used[name], func(i, j int) bool { return m.used[name][i] < m.used[name][j] })
		if strings.HasSuffix(name, ".wal") && len(file.blocks) > 2 {
			segments = append(segments, name)
		}
	}
	sort.Strings(m.names)
	sort.Strings(segments)
	if len(segments) == 0 {
		return nil, fmt.Errorf("no segment of the log holds anything")
	}
	m.newest = segments[len(segments)-1]
	return m, nil
}

// note asks the sound member for everything.
func (m *member) note() error {
	connection := dial(m.server.Endpoint)
	defer connection.Close()
	client := pb.NewKVClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := client.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		return err
	}
	m.keys, m.revision = all.Kvs, all.Header.Revision
	m.middle = m.revision / 2
	old, err := client.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: m.middle})
	if err != nil {
		return err
	}
	m.before = old.Kvs
	watch, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		return err
	}
	if err := watch.Send(watchAll(fromMiddle, m.middle+1)); err != nil {
		return err
	}
	for {
		response, err := watch.Recv()
		if err != nil {
			return err
		}
		for _, event := range response.Events {
			m.since = append(m.since, nameOf(event))
			if event.Kv.ModRevision == m.revision {
				return nil
			}
		}
	}
}

const fromNow, fromMiddle = 1, 2

func watchAll(id, start int64) *pb.WatchRequest {
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, WatchId: id, StartRevision: start}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}
}

func nameOf(event *mvccpb.Event) string {
	return fmt.Sprintf("%s %q at %d", event.Type, event.Kv.Key, event.Kv.ModRevision)
}

// watch has a watch that reads old events and one from now on. The first gives what there was, or ends and says where the
// damage is; the second goes on beside it, through the puts that follow.
func (m *member) watch(ctx context.Context, connection *grpc.ClientConn, puts int) (outcome, []string) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		return found, []string{err.Error()}
	}
	for _, request := range []*pb.WatchRequest{watchAll(fromNow, 0), watchAll(fromMiddle, m.middle+1)} {
		if err := stream.Send(request); err != nil {
			return found, []string{err.Error()}
		}
	}
	result, old, live, created := right, 0, 0, 0
	for created < 2 || old < len(m.since) || live < puts {
		response, err := stream.Recv()
		if err != nil {
			if !m.server.Alive() {
				return ended, nil
			}
			return result, []string{fmt.Sprintf("a watch waits for ever (%d of %d old events, %d of %d new ones): %v", old, len(m.since), live, puts, err)}
		}
		switch {
		case response.Created:
			if created++; created == 2 {
				go m.put(connection, puts)
			}
		case response.Canceled && response.WatchId == fromMiddle:
			if complaints := told(response.CancelReason); len(complaints) > 0 {
				return found, complaints
			}
			result, old = found, len(m.since)
		case response.Canceled:
			return found, []string{"the watch from now on ended: " + response.CancelReason}
		case response.WatchId == fromNow:
			live += len(response.Events)
		}
		if response.WatchId != fromMiddle {
			continue
		}
		for _, event := range response.Events {
			if old < len(m.since) && nameOf(event) != m.since[old] {
				return found, []string{"SILENTLY WRONG: event " + nameOf(event) + ", it was " + m.since[old]}
			}
			old = min(old+1, len(m.since))
		}
	}
	return result, nil
}

// put writes new keys at the end, for a watch to see.
func (m *member) put(connection *grpc.ClientConn, puts int) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range puts {
		_, _ = pb.NewKVClient(connection).Put(ctx, &pb.PutRequest{Key: []byte("zzz"), Value: []byte("new")})
	}
}

// try starts the program on the damaged files and asks for everything.
func (m *member) try(d damage, random *rand.Rand) (outcome, []string) {
	files := image{}
	for name, file := range m.base {
		files[name] = file
	}
	for name, file := range d.files {
		if file == nil {
			delete(files, name)
		} else {
			files[name] = file
		}
	}
	if err := files.write(m.server.Data); err != nil {
		return right, []string{err.Error()}
	}
	_ = os.Remove(filepath.Join(m.server.Folder, "log"))
	err := m.server.Start(startBound)
	for again := 0; err != nil && again < 3 && !m.server.Alive() && m.server.ExitCode() == 18; again++ {
		// The machine had no CPU for it within 20 s: that is no answer.
		err = m.server.Start(startBound)
	}
	defer m.server.Kill()
	if err != nil {
		if m.server.Alive() {
			return refused, []string{"neither serves nor ends: " + err.Error()}
		}
		return refused, m.toldAtEnd()
	}
	return m.ask(random)
}

// toldAtEnd judges status and last words of a program that has ended.
func (m *member) toldAtEnd() (complaints []string) {
	code, said := m.server.ExitCode(), m.server.LogTail()
	switch code {
	case 11, 12, 13:
	default:
		complaints = append(complaints, fmt.Sprintf("ended with status %d", code))
	}
	if strings.Contains(said, "panicked") {
		complaints = append(complaints, "it panicked")
	}
	return append(complaints, told(said)...)
}

func told(said string) (complaints []string) {
	has := func(words ...string) bool {
		for _, word := range words {
			if strings.Contains(said, word) {
				return true
			}
		}
		return false
	}
	if !has("page file", "pages-0", ".wal", "identity", "write-ahead log") {
		complaints = append(complaints, "which file? "+said)
	}
	if !has("offset", "bytes", "belongs", "missing", "checksum", "identity file", "no log", "version", "fit together") {
		complaints = append(complaints, "where, and what? "+said)
	}
	if !has("estore the", "eplace it", "ebuild", "Put the", "out of the cluster", "Point the", "program", "not mounted", "upgrade") {
		complaints = append(complaints, "what is to be done? "+said)
	}
	return complaints
}

// isDamage answers whether a request was refused for damage, and complains if it was refused for anything else.
func isDamage(err error) (bool, []string) {
	if status.Code(err) != codes.DataLoss {
		return false, []string{"refused for no damage: " + err.Error()}
	}
	return true, told(err.Error())
}

func (m *member) ask(random *rand.Rand) (outcome, []string) {
	connection := dial(m.server.Endpoint)
	defer connection.Close()
	client := pb.NewKVClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result := right
	all, err := client.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		damaged, complaints := isDamage(err)
		if !damaged || len(complaints) > 0 {
			return found, complaints
		}
		result = found
		if complaints := m.askEach(ctx, client); len(complaints) > 0 {
			return found, complaints
		}
	} else if complaints := same(all.Kvs, m.keys); len(complaints) > 0 || all.Header.Revision != m.revision {
		return found, append(complaints, fmt.Sprintf("revision %d, it was %d", all.Header.Revision, m.revision))
	}
	old, err := client.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: m.middle})
	if err != nil {
		damaged, complaints := isDamage(err)
		if !damaged || len(complaints) > 0 {
			return found, complaints
		}
		result = found
	} else if complaints := same(old.Kvs, m.before); len(complaints) > 0 {
		return found, append(complaints, "at an older revision")
	}
	result, complaints := m.write(ctx, client, result, random)
	if len(complaints) > 0 || result == ended {
		return result, complaints
	}
	watched, complaints := m.watch(ctx, connection, 3)
	if len(complaints) > 0 || watched == ended {
		if len(complaints) == 0 {
			complaints = m.toldAtEnd()
		}
		return watched, complaints
	}
	if err := m.server.Stop(startBound); err != nil && !m.server.Alive() {
		// The last checkpoint met it.
		return ended, m.toldAtEnd()
	}
	return max(result, watched), nil
}

// askEach asks for each key by itself: those of the damaged page are refused.
func (m *member) askEach(ctx context.Context, client pb.KVClient) (complaints []string) {
	answered, refused := 0, 0
	for _, kv := range m.keys {
		one, err := client.Range(ctx, &pb.RangeRequest{Key: kv.Key})
		if err != nil {
			damaged, wrong := isDamage(err)
			if !damaged || len(wrong) > 0 {
				return wrong
			}
			refused++
			continue
		}
		answered++
		if wrong := same(one.Kvs, []*mvccpb.KeyValue{kv}); len(wrong) > 0 {
			return wrong
		}
	}
	m.answered += answered
	m.refused += refused
	return nil
}

func same(got, want []*mvccpb.KeyValue) []string {
	if len(got) != len(want) {
		return []string{fmt.Sprintf("SILENTLY WRONG: %d keys, there were %d", len(got), len(want))}
	}
	for i, kv := range got {
		other := want[i]
		if !bytes.Equal(kv.Key, other.Key) || !bytes.Equal(kv.Value, other.Value) || kv.ModRevision != other.ModRevision ||
			kv.CreateRevision != other.CreateRevision || kv.Version != other.Version || kv.Lease != other.Lease {
			return []string{fmt.Sprintf("SILENTLY WRONG: %s at %d, it was %s at %d", kv.Key, kv.ModRevision, other.Key, other.ModRevision)}
		}
	}
	return nil
}

// write puts some keys: each is answered rightly, or the member ends with the damage that it met.
func (m *member) write(ctx context.Context, client pb.KVClient, result outcome, random *rand.Rand) (outcome, []string) {
	for n := range 8 {
		kv := m.keys[random.Intn(len(m.keys))]
		put, err := client.Put(ctx, &pb.PutRequest{Key: kv.Key, Value: []byte("new"), PrevKv: true})
		switch {
		case err == nil && put.Header.Revision != m.revision+int64(n)+1:
			return result, []string{fmt.Sprintf("SILENTLY WRONG: a put got revision %d after %d others of %d", put.Header.Revision, n, m.revision)}
		case err == nil:
			continue
		case status.Code(err) == codes.DataLoss:
			return found, told(err.Error())
		}
		select {
		case <-m.server.Exited():
			return ended, m.toldAtEnd()
		case <-time.After(10 * time.Second):
			return found, []string{"a put was refused for no damage: " + err.Error()}
		}
	}
	return result, nil
}
