// Command soak keeps many keys on many leases alive while many watchers look on and few keys change. Every change must
// reach its watchers once and in order, no lease may end, and what it costs the server is printed.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"ringstone.test/internal/server"
)

type settings struct {
	keys, leases, watchers, wide int
	ttl, duration                time.Duration
	changes                      float64
}

func main() {
	var s settings
	command := flag.String("server", "", "command of the server, as in \"ringstone serve\"")
	flag.IntVar(&s.keys, "keys", 1_000_000, "keys, each on one of the leases")
	flag.IntVar(&s.leases, "leases", 10_000, "leases, kept alive each third of their TTL")
	flag.IntVar(&s.watchers, "watchers", 10_000, "watchers, each of the keys of one lease")
	flag.IntVar(&s.wide, "wide", 10, "watchers of all keys besides")
	flag.DurationVar(&s.ttl, "ttl", 30*time.Second, "TTL of the leases")
	flag.DurationVar(&s.duration, "duration", 5*time.Minute, "how long it goes on once all is set up")
	flag.Float64Var(&s.changes, "changes", 0.01, "part of the keys that changes in a minute")
	flag.Parse()
	if *command == "" || flag.NArg() > 0 || s.leases < 1 || s.keys < s.leases || s.watchers > s.leases || s.ttl < 3*time.Second {
		flag.Usage()
		os.Exit(2)
	}
	fmt.Printf("%d keys on %d leases of %v, %d watchers and %d of all keys, %v, %.2f %% of the keys change a minute, %q\n",
		s.keys, s.leases, s.ttl, s.watchers, s.wide, s.duration, s.changes*100, *command)
	passed, failed := 0, 0
	check := func(name, complaint string) {
		if complaint == "" {
			passed++
			fmt.Println("ok     ", name)
			return
		}
		failed++
		fmt.Println("FAILED ", name+":", complaint)
	}
	if err := run(*command, &s, check); err != nil {
		check("the run", err.Error())
	}
	fmt.Printf("soak: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(command string, s *settings, check func(name, complaint string)) error {
	folder, err := server.TemporaryFolder("soak-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	child, err := server.New(command, folder, "--quota-backend-bytes=8589934592")
	if err == nil {
		err = child.Start(30 * time.Second)
	}
	if err != nil {
		return err
	}
	defer child.Kill()
	load, err := newLoad(child.Endpoint, s)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := load.setUp(); err != nil {
		return err
	}
	fmt.Printf("set up in %v\n", time.Since(began).Round(time.Second))
	before := usageOf(child.Pid())
	peak := before.anonymous
	done := time.Now().Add(s.duration)
	load.change(done, func() { peak = max(peak, usageOf(child.Pid()).anonymous) })
	after := usageOf(child.Pid())
	seconds := s.duration.Seconds()
	fmt.Printf("server: %.2f %% of a core, %d MiB of anonymous memory at most, %d MiB resident at the end\n",
		(after.cpu-before.cpu).Seconds()/seconds*100, peak>>20, after.resident>>20)
	fmt.Printf("%d changes, %d events at the watchers of a lease's keys, %d at those of all; latency of a change: %v\n",
		load.changed, load.narrowEvents(), load.wideEvents(), load.latencies())
	load.judge(check)
	return nil
}
