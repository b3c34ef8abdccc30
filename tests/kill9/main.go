// Command kill9 holds a server to its word: writers record what was acknowledged, SIGKILL ends the server under their
// hands, and after the restart every acknowledged write must be there at its revision, the history must have no hole,
// and nothing may be in it that nobody asked for.
//
// One process is killed, not the machine: what the kernel had accepted survives. Power cuts are simulated elsewhere.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"ringstone.test/internal/ledger"
	"ringstone.test/internal/server"
)

func main() {
	command := flag.String("server", "", "command of the server, as in \"ringstone serve\"")
	rounds := flag.Int("rounds", 100, "kills")
	writers := flag.Int("writers", 16, "concurrent writers, a connection each")
	everything := flag.Bool("everything", true, "compactions, leases, watchers that resume, large values and snapshots beside the writers")
	large := flag.Int("large", 200_000, "bytes of the large values; 0: none")
	longest := flag.Duration("longest", 1200*time.Millisecond, "longest time from the first write to the kill")
	seed := flag.Int64("seed", 0, "seed of keys and times; 0 picks one and prints it")
	flag.Parse()
	if *command == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if *seed == 0 {
		*seed = time.Now().UnixNano() % 1_000_000_000
	}
	fmt.Printf("seed %d, %d rounds, %d writers, %q\n", *seed, *rounds, *writers, *command)
	passed, failed := run(*command, *rounds, ledger.Options{Writers: *writers, Everything: *everything, LargeBytes: *large}, *longest, rand.New(rand.NewSource(*seed)))
	fmt.Printf("kill9: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(command string, rounds int, options ledger.Options, longest time.Duration, random *rand.Rand) (passed, failed int) {
	folder, err := server.TemporaryFolder("kill9-")
	if err != nil {
		fmt.Println("FAILED:", err)
		return 0, 1
	}
	child, err := server.New(command, folder)
	if err == nil {
		err = child.Start(30 * time.Second)
	}
	if err != nil {
		fmt.Println("FAILED:", err)
		return 0, 1
	}
	defer func() {
		child.Kill()
		if failed == 0 {
			_ = os.RemoveAll(folder)
		} else {
			fmt.Println("data and log are kept in", folder)
		}
	}()
	book := ledger.New()
	acknowledged, snapshots, checkpoints := 0, int64(0), int64(0)
	for round := range rounds {
		load := book.Start(child.Endpoint, round, options, random.Int63())
		time.Sleep(20*time.Millisecond + time.Duration(random.Int63n(int64(longest))))
		checkpoints += figure(child.Endpoint, "etcd_disk_backend_commit_duration_seconds_count")
		child.Kill()
		load.Finish(book)
		snapshots += load.Snapshots.Load()
		before := acknowledged
		acknowledged = book.Acknowledged()
		started := time.Now()
		if err := child.Start(60 * time.Second); err != nil {
			fmt.Printf("FAILED round %d: %v\n", round, err)
			return passed, failed + 1
		}
		recovery := time.Since(started)
		// The whole history now and then, and at the end; what is new each time.
		full := round%10 == 9 || round == rounds-1
		if complaints := book.Verify(child.Endpoint, full, random); len(complaints) > 0 {
			failed++
			fmt.Printf("FAILED round %d\n", round)
			for i, text := range complaints {
				if i == 10 {
					fmt.Printf("  ... and %d more\n", len(complaints)-i)
					break
				}
				fmt.Println("  *", text)
			}
			return passed, failed
		}
		passed++
		fmt.Printf("round %d: %d acknowledged, %d without an answer of which %d are in the history, revision %d, serving again after %d ms\n",
			round, acknowledged-before, load.Unanswered, book.Adopted, book.Revision(), recovery.Milliseconds())
	}
	if acknowledged < rounds*options.Writers {
		fmt.Printf("FAILED: %d acknowledged writes are no load\n", acknowledged)
		failed++
	}
	fmt.Printf("%d acknowledged writes over %d kills, compacted to %d of %d, %d whole snapshots, %d checkpoints, %d keys ended with their leases, watchers that resume were shown %d events\n",
		acknowledged, rounds, book.Compacted(), book.Revision(), snapshots, checkpoints, book.Expired, book.Watched)
	if options.Everything && rounds >= 5 {
		// A short run may end before the first lease does.
		for what, count := range map[string]int64{"compaction": book.Compacted(), "snapshot": snapshots, "checkpoint": checkpoints, "event of a watcher": int64(book.Watched), "end of a lease": int64(book.Expired)} {
			if count == 0 && (what != "end of a lease" || rounds >= 20) {
				fmt.Printf("FAILED: no %s was under way\n", what)
				failed++
			}
		}
	}
	return passed, failed
}

// figure is a sample of /metrics without labels, 0 where it can't be had.
func figure(endpoint, name string) int64 {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + endpoint + "/metrics")
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if text, found := strings.CutPrefix(lines.Text(), name+" "); found {
			value, _ := strconv.ParseFloat(text, 64)
			return int64(value)
		}
	}
	return 0
}
