package main

import (
	"fmt"
	"slices"
	"sort"

	"google.golang.org/grpc/codes"
)

// coverage counts what the run met, so that a generator which stops reaching something fails instead of passing.
type coverage struct {
	total, succeeded int
	methods          map[string][2]int // sent, succeeded
	texts            map[string]int    // by the control's text, "Code: text"
	reasons          map[string]int    // why watches were cancelled
	known            map[string]int
	ties             int
	watches, events  int
	scenarios        map[string]int
}

func newCoverage() *coverage {
	return &coverage{methods: map[string][2]int{}, texts: map[string]int{}, reasons: map[string]int{}, known: map[string]int{}, scenarios: map[string]int{}}
}

// Texts of etcd's catalogue that a single member without auth and membership changes can be made to say.
var textsInScope = []string{
	"InvalidArgument: etcdserver: key is not provided",
	"InvalidArgument: etcdserver: key not found",
	"InvalidArgument: etcdserver: value is provided",
	"InvalidArgument: etcdserver: lease is provided",
	"InvalidArgument: etcdserver: too many operations in txn request",
	"InvalidArgument: etcdserver: duplicate key given in txn request",
	"InvalidArgument: etcdserver: invalid sort option",
	"InvalidArgument: etcdserver: request is too large",
	"OutOfRange: etcdserver: mvcc: required revision has been compacted",
	"OutOfRange: etcdserver: mvcc: required revision is a future revision",
	"OutOfRange: etcdserver: too large lease TTL",
	"ResourceExhausted: etcdserver: mvcc: database space exceeded",
	"ResourceExhausted: grpc: received message larger than max",
	"NotFound: etcdserver: requested lease not found",
	"FailedPrecondition: etcdserver: lease already exists",
	"DataLoss: etcdserver: corrupt cluster",
	"Unimplemented: RangeStream does not support custom sort orders",
	"Unimplemented: RangeStream does not support revision filters",
}

// Reasons with which a watch is cancelled, in the same scope.
var reasonsInScope = []string{
	"mvcc: duplicate watch ID provided on the WatchStream",
	"mvcc: watcher range is empty",
	"etcdserver: mvcc: required revision has been compacted",
	"compact_revision without reason",
	"cancelled by the client",
}

func (c *coverage) count(asked *call, control *answer) {
	c.total++
	counts := c.methods[asked.method]
	counts[0]++
	if control.ok() {
		c.succeeded++
		counts[1]++
	}
	c.methods[asked.method] = counts
	if control.code != codes.OK {
		text := control.text
		if asked.raw != nil {
			text = "(an encoding error)"
		}
		for _, prefix := range []string{"grpc: received message larger than max"} {
			if len(text) > len(prefix) && text[:len(prefix)] == prefix {
				text = prefix
			}
		}
		c.texts[control.code.String()+": "+text]++
	}
}

// report prints the counts and answers how many checks of the run as a whole failed.
func (c *coverage) report() (failed int) {
	fmt.Printf("\ncalls %d, succeeded %d (%d %%), watches %d, events compared %d, answers that differ only in ties %d\n",
		c.total, c.succeeded, 100*c.succeeded/max(c.total, 1), c.watches, c.events, c.ties)
	for _, name := range sortedKeys(c.methods) {
		fmt.Printf("  %-40s %7d sent %7d succeeded\n", name, c.methods[name][0], c.methods[name][1])
	}
	fmt.Println("errors:")
	printCounts(c.texts)
	fmt.Println("watch cancellations:")
	printCounts(c.reasons)
	fmt.Println("scenarios:")
	printCounts(c.scenarios)
	fmt.Println("known differences met:")
	printCounts(c.known)
	for _, text := range textsInScope {
		if c.texts[text] == 0 {
			fmt.Printf("FAILED: never met: %s\n", text)
			failed++
		}
	}
	for _, reason := range reasonsInScope {
		if c.reasons[reason] == 0 {
			fmt.Printf("FAILED: no watch was cancelled with: %s\n", reason)
			failed++
		}
	}
	if c.succeeded*100 < c.total*30 {
		fmt.Println("FAILED: fewer than 30 % of the calls succeeded")
		failed++
	}
	return failed
}

func printCounts(counts map[string]int) {
	for _, name := range sortedKeys(counts) {
		fmt.Printf("  %7d  %s\n", counts[name], name)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return slices.Clip(names)
}
