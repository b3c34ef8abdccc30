// Command memory measures a store that is larger than its memory: puts alone, then puts beside a client that reads all keys
// again and again. No executor may wait for a page that the kernel has taken back (a major fault), and puts must not
// become much slower.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ringstone.test/internal/probe"
	"ringstone.test/internal/server"
)

type settings struct {
	program     string
	storeMiB    int64
	memoryMiB   int64
	memoryLimit int64
	valueBytes  int
	seconds     int
	ratio       float64
	judgePuts   bool
}

func main() {
	var s settings
	flag.StringVar(&s.program, "program", "", "the ringstone program")
	flag.Int64Var(&s.storeMiB, "store-mib", 2048, "MiB of the page file")
	flag.Int64Var(&s.memoryMiB, "memory-mib", 512, "MiB that the server's cgroup has")
	flag.Int64Var(&s.memoryLimit, "memory-limit", 192<<20, "the server's --memory-limit in bytes")
	flag.IntVar(&s.valueBytes, "value-bytes", 1000, "bytes of a value")
	flag.IntVar(&s.seconds, "seconds", 30, "how long each part is measured")
	flag.Float64Var(&s.ratio, "ratio", 4, "largest ratio of put p99 beside the scan to that without")
	small := flag.Bool("small", false, "300 MiB under 256 MiB, and puts are not judged")
	flag.Parse()
	if s.program == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	s.judgePuts = !*small
	if *small {
		s.storeMiB, s.memoryMiB, s.seconds = 300, 256, 8
	}
	group, err := newCgroup(s.memoryMiB << 20)
	if err != nil {
		fmt.Println("skipped:", err)
		fmt.Println("memory: 0 passed, 0 failed, 3 skipped")
		return
	}
	judge := &judge{}
	if err := run(s, group, judge); err != nil {
		fmt.Println("FAILED:", err)
		judge.failed++
	}
	group.remove()
	fmt.Printf("memory: %d passed, %d failed, %d skipped\n", judge.passed, judge.failed, judge.skipped)
	if judge.failed > 0 {
		os.Exit(1)
	}
}

type judge struct{ passed, failed, skipped int }

func (j *judge) that(good bool, format string, arguments ...any) {
	verdict := "ok"
	if good {
		j.passed++
	} else {
		j.failed++
		verdict = "FAILED"
	}
	fmt.Printf("%s: %s\n", verdict, fmt.Sprintf(format, arguments...))
}

func run(s settings, group *cgroup, judge *judge) error {
	folder, err := server.TemporaryFolder("memory-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	program, err := filepath.Abs(s.program)
	if err != nil {
		return err
	}
	keys, err := fill(s, program+" serve", folder)
	if err != nil {
		return err
	}
	command, err := group.command(folder, program)
	if err != nil {
		return err
	}
	child, err := start(s, command, folder)
	if err != nil {
		return err
	}
	defer child.Kill()
	store := &store{settings: s, server: child, keys: keys}
	// What the first reads bring in is no one's steady state.
	if _, err := store.puts(nil, 3*time.Second); err != nil {
		return err
	}
	span := time.Duration(s.seconds) * time.Second
	without, err := store.measured("puts", group, nil, span)
	if err != nil {
		return err
	}
	beside, err := store.measured("puts beside the scan", group, &scan{}, span)
	if err != nil {
		return err
	}
	judge.that(beside.scanned >= int64(keys)/10, "%d keys were scanned meanwhile, the store has %d", beside.scanned, keys)
	if reclaimed := without.reclaimed + beside.reclaimed; reclaimed > 0 && without.faults+beside.faults > 0 {
		// What others need, the kernel takes from whom it likes.
		judge.skipped++
		fmt.Printf("skipped: major faults of executors: %d without the scan, %d beside it, but the machine itself was short of memory: %d pages taken\n", without.faults, beside.faults, reclaimed)
	} else {
		if without.faults+beside.faults > 0 && pagesOut() {
			fmt.Println("this kernel gives back pages that were not used for a while, however much memory is free (DAMON): that may be why")
		}
		judge.that(without.faults+beside.faults == 0, "major faults of executors: %d without the scan, %d beside it", without.faults, beside.faults)
	}
	ratio := float64(beside.puts.At(99)) / float64(without.puts.At(99))
	if s.judgePuts {
		judge.that(ratio <= s.ratio, "put p99 beside the scan to that without: %.2f, at most %.2f", ratio, s.ratio)
	} else {
		fmt.Printf("put p99 beside the scan to that without: %.2f, not judged\n", ratio)
	}
	told, err := store.toldFaults()
	if err != nil {
		return err
	}
	all, err := store.faults()
	judge.that(err == nil && told <= all && told >= without.faults+beside.faults, "the metric tells %d major faults, the kernel %d", told, all)
	return err
}

type figures struct {
	puts    probe.Latencies
	faults  int64
	scanned int64
	// Pages that the kernel took back for the machine as a whole, not for our group.
	reclaimed int64
}
