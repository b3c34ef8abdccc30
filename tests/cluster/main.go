// Command cluster holds a cluster to its word: clients of all members, while members are killed and stopped; afterwards
// everything that they were told is judged. Its modes:
//
//	faults      on loopback: members are killed, stopped, left behind
//	partitions  each member in a network namespace and with a disk of its own, which are spoilt, too (root)
//	failover    how long there are no writes after the leader was killed
//	stall       how long a leader whose disk stands still goes on leading (root)
//
// One machine: what a kernel had accepted survives a kill.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"ringstone.test/internal/history"
	"ringstone.test/internal/server"
)

func main() {
	command := flag.String("server", "", "command of a server, as in \"ringstone serve\"")
	members := flag.Int("members", 3, "members")
	clients := flag.Int("clients", 12, "clients, each of one member after the other")
	mode := flag.String("mode", "faults", "faults, partitions, failover or stall")
	runs := flag.Int("runs", 50, "runs of failover and stall")
	long := flag.Bool("long", false, "partitions: those that take long, too")
	only := flag.String("only", "", "only faults whose name contains this")
	operations := flag.Int("operations", 20_000, "operations at least")
	faults := flag.Int("faults", 20, "faults at least")
	seed := flag.Int64("seed", 0, "seed of keys, operations and faults; 0 picks one and prints it")
	more := flag.String("flags", "", "more flags for the servers, as in \"--log-level=info\"")
	keep := flag.Bool("keep", false, "keep data and logs")
	file := flag.String("history", "", "where the history goes, as lines of JSON")
	flag.Parse()
	if *command == "" || flag.NArg() > 0 || *members < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if *seed == 0 {
		*seed = time.Now().UnixNano() % 1_000_000_000
	}
	fmt.Printf("seed %d, %d members, %d clients, %q\n", *seed, *members, *clients, *command)
	folder, err := server.TemporaryFolder("cluster-")
	if err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	program := strings.Fields(*command)[0]
	t := &test{random: rand.New(rand.NewSource(*seed)), folder: folder, file: *file, program: program, flags: strings.Fields(*more)}
	name := *mode
	switch *mode {
	case "faults":
		name = "cluster"
		t.run(*command, *members, *clients, *operations, *faults, *only)
	case "partitions":
		t.partitions(*command, *members, *clients, *operations, *faults, *long, *only)
	case "failover":
		t.failover(*command, *members, *runs)
	case "stall":
		t.hasDisks = true
		t.stall(*command, *members, *runs)
	default:
		flag.Usage()
		os.Exit(2)
	}
	t.end()
	fmt.Printf("%s: %d passed, %d failed, 0 skipped\n", name, t.passed, t.failed)
	if t.failed > 0 || *keep {
		fmt.Println("data and logs are kept in", folder)
	}
	if t.failed > 0 {
		os.Exit(1)
	}
	if *keep {
		return
	}
	_ = os.RemoveAll(folder)
}

type test struct {
	random       *rand.Rand
	folder, file string
	// program is the path of the server under test.
	program string
	flags   []string
	cluster *cluster
	// network is none on loopback.
	network        *network
	hasDisks       bool
	passed, failed int
	// failovers are the times from the end of a leader to the next acknowledged write.
	failovers []time.Duration
}

func (t *test) verdict(what string, complaints []string) {
	if len(complaints) == 0 {
		t.passed++
		return
	}
	t.failed++
	fmt.Println("FAILED:", what)
	for _, complaint := range complaints {
		fmt.Println("   ", complaint)
	}
}

// begin prepares and starts the members.
func (t *test) begin(command string, members int, flags []string) bool {
	places := make([]server.Place, members)
	t.cluster = &cluster{}
	for i := range places {
		places[i].Folder = filepath.Join(t.folder, fmt.Sprintf("m%d", i))
		if err := os.Mkdir(places[i].Folder, 0o755); err != nil {
			t.verdict("the folders", []string{err.Error()})
			return false
		}
		if t.network != nil {
			places[i].Host, places[i].Start = address(i+1), t.network.nodes[i+1].start
		}
		if t.network != nil || t.hasDisks {
			disk, err := newDisk(places[i].Folder)
			if err != nil {
				t.verdict("the disks", []string{err.Error()})
				return false
			}
			t.cluster.disks = append(t.cluster.disks, disk)
			places[i].Data = filepath.Join(disk.Mount, "data")
		}
	}
	var err error
	if t.cluster.members, err = server.NewMembers(command, places, append(flags, t.flags...)...); err == nil {
		err = t.cluster.start()
	}
	if err != nil {
		t.verdict("the start of the cluster", []string{err.Error()})
		t.cluster.kill()
		return false
	}
	return true
}

// end takes the disks away; the members are gone.
func (t *test) end() {
	if t.cluster == nil || t.failed > 0 {
		return
	}
	for _, disk := range t.cluster.disks {
		if err := disk.Off(); err != nil {
			t.verdict("a disk at the end", []string{err.Error()})
		}
	}
}

// turns gives one kind of fault after the other, each once before any comes again.
type turns struct {
	kinds []fault
	order []int
	taken int
}

// named are those whose name contains a text.
func named(kinds []fault, text string) []fault {
	chosen := slices.DeleteFunc(kinds, func(kind fault) bool { return !strings.Contains(kind.name, text) })
	if len(chosen) == 0 {
		fmt.Println("no fault has a name with", text)
		os.Exit(2)
	}
	return chosen
}

func newTurns(t *test, kinds []fault) *turns {
	return &turns{kinds: kinds, order: t.random.Perm(len(kinds))}
}

func (t *turns) take() fault {
	t.taken++
	return t.kinds[t.order[(t.taken-1)%len(t.order)]]
}

func (t *test) isEtcd() bool { return strings.HasSuffix(t.program, "etcd") }

func (t *test) run(command string, members, clients, operations, faults int, only string) {
	if !t.begin(command, members, nil) {
		return
	}
	defer t.cluster.kill()
	load := startLoad(t.cluster, clients, t.random.Int63())
	kinds := newTurns(t, named(processFaults(), only))
	began := time.Now()
	for n := 0; n < faults || load.count() < operations; n++ {
		if n >= 10*faults+100 {
			t.verdict("the load", []string{fmt.Sprintf("%d operations beside %d faults", load.count(), n)})
			break
		}
		name, err := t.next(load, kinds.take())
		fmt.Printf("%5.1f s, %d operations: %s\n", time.Since(began).Seconds(), load.count(), name)
		if err != nil {
			t.verdict(name, []string{err.Error()})
			break
		}
		t.passed++
	}
	t.judge(load)
}

// judge ends the load, gathers what each member has, and asks the judges.
func (t *test) judge(load *load) {
	recorded := load.finish()
	if err := t.cluster.settle(); err != nil {
		t.verdict("the cluster at the end", []string{err.Error()})
		return
	}
	t.verdict("the leases", load.leaseComplaints())
	now, err := t.cluster.revision()
	if err != nil {
		t.verdict("the revision at the end", []string{err.Error()})
		return
	}
	events, complaints := load.history(now)
	t.verdict("the watchers", complaints)
	members := map[int][]history.Event{}
	for i := range t.cluster.members {
		if members[i], err = t.cluster.events(i); err != nil {
			t.verdict(fmt.Sprint("the events of member ", i), []string{err.Error()})
			return
		}
	}
	t.write(recorded)
	kinds := map[history.Kind]int{}
	unknown := 0
	for _, o := range recorded {
		kinds[o.Kind]++
		if o.Outcome == history.Unknown {
			unknown++
		}
	}
	fmt.Printf("%d operations %v, %d of unknown outcome; %d events\n", len(recorded), kinds, unknown, len(events))
	if n := len(t.failovers); n > 0 {
		sort.Slice(t.failovers, func(i, j int) bool { return t.failovers[i] < t.failovers[j] })
		fmt.Printf("writes again behind the end of a leader: median %v, most %v, of %d\n", t.failovers[n/2].Round(time.Millisecond), t.failovers[n-1].Round(time.Millisecond), n)
	}
	t.verdict("the history by its revisions", history.Check(recorded, events, members))
	t.verdict("the history by its values", history.Linearizable(recorded, events))
	t.verdict("the hashes of the members", t.cluster.hashes())
}

func (t *test) write(recorded []history.Operation) {
	if t.file == "" {
		return
	}
	out, err := os.Create(t.file)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer out.Close()
	encoder := json.NewEncoder(out)
	for _, o := range recorded {
		if err := encoder.Encode(o); err != nil {
			fmt.Println(err)
			return
		}
	}
}
