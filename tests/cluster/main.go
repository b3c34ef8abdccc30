// Command cluster holds a cluster to its word: clients of all members, while members are killed and stopped; afterwards
// everything that they were told is judged.
//
// One machine: what a kernel had accepted survives a kill, and the network is loopback.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"time"

	"ringstone.test/internal/history"
	"ringstone.test/internal/server"
)

func main() {
	command := flag.String("server", "", "command of a server, as in \"ringstone serve\"")
	members := flag.Int("members", 3, "members")
	clients := flag.Int("clients", 12, "clients, each of one member after the other")
	operations := flag.Int("operations", 20_000, "operations at least")
	faults := flag.Int("faults", 20, "faults at least")
	seed := flag.Int64("seed", 0, "seed of keys, operations and faults; 0 picks one and prints it")
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
	t := &test{random: rand.New(rand.NewSource(*seed)), folder: folder, file: *file}
	t.run(*command, *members, *clients, *operations, *faults)
	fmt.Printf("cluster: %d passed, %d failed, 0 skipped\n", t.passed, t.failed)
	if t.failed > 0 {
		fmt.Println("data and logs are kept in", folder)
		os.Exit(1)
	}
	_ = os.RemoveAll(folder)
}

type test struct {
	random         *rand.Rand
	folder, file   string
	cluster        *cluster
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

func (t *test) run(command string, members, clients, operations, faults int) {
	all, err := server.NewCluster(command, t.folder, members)
	if err != nil {
		t.verdict("the folders", []string{err.Error()})
		return
	}
	t.cluster = &cluster{members: all}
	defer t.cluster.kill()
	if err := t.cluster.start(); err != nil {
		t.verdict("the start of the cluster", []string{err.Error()})
		return
	}
	load := startLoad(t.cluster, clients, t.random.Int63())
	for n := 0; n < faults || load.count() < operations; n++ {
		if n >= 10*faults+100 {
			t.verdict("the load", []string{fmt.Sprintf("%d operations beside %d faults", load.count(), n)})
			break
		}
		name, err := t.fault(load)
		if err != nil {
			t.verdict(name, []string{err.Error()})
			break
		}
		t.passed++
	}
	recorded := load.finish()
	t.judge(recorded)
}

// judge gathers what each member has, and asks the judges.
func (t *test) judge(recorded []history.Operation) {
	if err := t.cluster.settle(); err != nil {
		t.verdict("the cluster at the end", []string{err.Error()})
		return
	}
	members := map[int][]history.Event{}
	var longest []history.Event
	for i := range t.cluster.members {
		own, err := t.cluster.events(i)
		if err != nil {
			t.verdict(fmt.Sprint("the events of member ", i), []string{err.Error()})
			return
		}
		members[i] = own
		if len(own) > len(longest) {
			longest = own
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
	fmt.Printf("%d operations %v, %d of unknown outcome; %d events\n", len(recorded), kinds, unknown, len(longest))
	if n := len(t.failovers); n > 0 {
		sort.Slice(t.failovers, func(i, j int) bool { return t.failovers[i] < t.failovers[j] })
		fmt.Printf("writes again behind the end of a leader: median %v, most %v, of %d\n", t.failovers[n/2].Round(time.Millisecond), t.failovers[n-1].Round(time.Millisecond), n)
	}
	t.verdict("the history by its revisions", history.Check(recorded, longest, members))
	t.verdict("the history by its values", history.Linearizable(recorded, longest))
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
