// Command kill9 holds a server to its word: writers record what was acknowledged, SIGKILL ends the server under their
// hands, and after the restart every acknowledged write must be there at its revision, the history must have no hole,
// and nothing may be in it that nobody asked for.
//
// One process is killed, not the machine: what the kernel had accepted survives. Power cuts are simulated elsewhere.
package main

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"time"

	"ringstone.test/internal/server"
)

func main() {
	command := flag.String("server", "", "command of the server, as in \"ringstone serve\"")
	rounds := flag.Int("rounds", 100, "kills")
	writers := flag.Int("writers", 16, "concurrent writers, a connection each")
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
	passed, failed := run(*command, *rounds, *writers, *longest, rand.New(rand.NewSource(*seed)))
	fmt.Printf("kill9: %d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(command string, rounds, writers int, longest time.Duration, random *rand.Rand) (passed, failed int) {
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
	book := newLedger()
	acknowledged := 0
	for round := range rounds {
		load := startLoad(child.Endpoint, round, writers, random.Int63())
		time.Sleep(20*time.Millisecond + time.Duration(random.Int63n(int64(longest))))
		child.Kill()
		load.finish(book)
		before := acknowledged
		acknowledged = len(book.acknowledged)
		started := time.Now()
		if err := child.Start(60 * time.Second); err != nil {
			fmt.Printf("FAILED round %d: %v\n", round, err)
			return passed, failed + 1
		}
		recovery := time.Since(started)
		// The whole history now and then, and at the end; what is new each time.
		full := round%10 == 9 || round == rounds-1
		if complaints := book.verify(child.Endpoint, full, random); len(complaints) > 0 {
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
			round, acknowledged-before, load.unanswered, book.adopted, book.revision, recovery.Milliseconds())
	}
	if acknowledged < rounds*writers {
		fmt.Printf("FAILED: %d acknowledged writes are no load\n", acknowledged)
		failed++
	}
	fmt.Printf("%d acknowledged writes over %d kills\n", acknowledged, rounds)
	return passed, failed
}
