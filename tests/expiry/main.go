// Command expiry lets many leases end together. Their TTLs are chosen so that all deadlines lie within one second,
// however long granting takes. A watch sees the keys go; lists of the leases see those without keys. No lease may end
// before its TTL has passed since it was asked for, and all must be gone soon after the last deadline.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"
	"time"

	"ringstone.test/internal/probe"
	"ringstone.test/internal/server"
)

// slack is how much longer than its TTL a lease of Ringstone lives by design (docs/decisions/0005).
const slack = time.Second

func main() {
	command := flag.String("server", "", "command of the server, as in \"ringstone serve\"")
	leases := flag.Int("leases", 100_000, "leases that end together")
	keys := flag.Int("keys", 20_000, "leases with a key")
	ttl := flag.Duration("ttl", 30*time.Second, "time from the first grant to the deadlines; granting must be done by then")
	bound := flag.Duration("bound", 5*time.Second, "all are gone so long after the last deadline")
	flag.Parse()
	if *command == "" || flag.NArg() > 0 || *keys > *leases {
		flag.Usage()
		os.Exit(2)
	}
	fmt.Printf("%d leases, %d with a key, %v, %q\n", *leases, *keys, *ttl, *command)
	passed, failed := 0, 0
	check := func(name string, complaint string) {
		if complaint == "" {
			passed++
			fmt.Println("ok     ", name)
			return
		}
		failed++
		fmt.Println("FAILED ", name+":", complaint)
	}
	if err := run(*command, *leases, *keys, *ttl, *bound, check); err != nil {
		check("the run", err.Error())
	}
	fmt.Printf("expiry: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(command string, leases, keys int, ttl, bound time.Duration, check func(name, complaint string)) error {
	folder, err := server.TemporaryFolder("expiry-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	child, err := server.New(command, folder)
	if err == nil {
		err = child.Start(30 * time.Second)
	}
	if err != nil {
		return err
	}
	defer child.Kill()
	storm, err := newStorm(child.Endpoint, leases, keys)
	if err != nil {
		return err
	}
	if err := storm.grant(time.Now().Add(ttl)); err != nil {
		return err
	}
	first, last := storm.deadlines()
	fmt.Printf("granted in %v; deadlines over %v, the first in %v\n", storm.granting.Round(time.Millisecond), last.Sub(first).Round(time.Millisecond), time.Until(first).Round(time.Millisecond))
	if time.Until(first) < 0 {
		return fmt.Errorf("granting took longer than the TTL of %v", ttl)
	}
	quiet := probe.Start(child.Endpoint)
	time.Sleep(time.Until(first.Add(-100 * time.Millisecond)))
	putsBefore, getsBefore := quiet.Finish()
	busy := probe.Start(child.Endpoint)
	storm.observe(last.Add(bound + slack + 30*time.Second))
	puts, gets := busy.Finish()
	report(storm, last, bound, check)
	fmt.Printf("others' puts before %v, during %v\n", putsBefore, puts)
	fmt.Printf("others' gets before %v, during %v\n", getsBefore, gets)
	return nil
}

func report(storm *storm, last time.Time, bound time.Duration, check func(name, complaint string)) {
	early, missing, twice := 0, 0, 0
	var lateness []time.Duration
	var end time.Time
	for i := range storm.leases {
		lease := &storm.leases[i]
		if lease.goneBy.IsZero() {
			missing++
			continue
		}
		if lease.goneBy.Before(lease.asked.Add(lease.ttl)) {
			early++
		}
		if lease.deletes > 1 {
			twice++
		}
		lateness = append(lateness, lease.goneBy.Sub(lease.deadline()))
		if lease.goneBy.After(end) {
			end = lease.goneBy
		}
	}
	sort.Slice(lateness, func(i, j int) bool { return lateness[i] < lateness[j] })
	if len(lateness) > 0 {
		at := func(percent int) time.Duration {
			return lateness[(len(lateness)-1)*percent/100].Round(time.Millisecond)
		}
		fmt.Printf("from a lease's deadline (TTL after the grant's answer) to its end: min %v p50 %v p99 %v max %v\n", at(0), at(50), at(99), at(100))
		fmt.Printf("all gone %v after the last deadline; less the second of slack: %v\n", end.Sub(last).Round(time.Millisecond), (end.Sub(last) - slack).Round(time.Millisecond))
	}
	check("none early", complain(early, "ended before their TTL had passed"))
	check("none left", complain(missing, "are still there"))
	check("each key deleted once", complain(twice, "had a key that was deleted twice"))
	overdue := ""
	if end.Sub(last) > bound {
		overdue = fmt.Sprintf("the last one ended %v after the last deadline, the bound is %v", end.Sub(last), bound)
	}
	check("gone in time", overdue)
}

func complain(count int, what string) string {
	if count == 0 {
		return ""
	}
	return fmt.Sprintf("%d leases %s", count, what)
}
