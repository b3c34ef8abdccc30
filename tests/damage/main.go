// Command damage makes a member, damages one place of one of its files at a time, and starts the real program on that: what
// it answers must be right, and what it refuses must say where the damage is and what to do. The member was killed in
// quiet, so the closing block is on disk.
//
// `core/tests/group/damage.rs` does the same a hundred thousand times on simulated disks; here the mapping, the page
// cache, io_uring, the folder and the exit statuses are the real ones. Not checked: damage while the server runs.
package main

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"time"

	"ringstone.test/internal/server"
)

func main() {
	command := flag.String("server", "", "command of the server, as in \"ringstone serve\"")
	trials := flag.Int("trials", 1000, "pieces of damage")
	first := flag.Int("first", 0, "number of the first one")
	keys := flag.Int("keys", 3000, "keys of the member")
	seed := flag.Int64("seed", 1, "seed of what is damaged")
	flag.Parse()
	if *command == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	fmt.Printf("seed %d, %d trials, %q\n", *seed, *trials, *command)
	passed, failed := run(*command, *first, *trials, *keys, *seed)
	fmt.Printf("damage: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(command string, first, trials, keys int, seed int64) (passed, failed int) {
	folder, err := server.TemporaryFolder("damage-")
	if err != nil {
		fmt.Println("FAILED:", err)
		return 0, 1
	}
	defer os.RemoveAll(folder)
	made, err := makeMember(command, folder, keys)
	if err != nil {
		fmt.Println("FAILED:", err)
		return 0, 1
	}
	table := map[string]map[outcome]int{}
	started := time.Now()
	for number := first; number < first+trials; number++ {
		random := rand.New(rand.NewSource(seed<<32 + int64(number)))
		damage := made.pick(random)
		result, complaints := made.try(damage, random)
		if len(complaints) > 0 {
			failed++
			fmt.Printf("FAILED trial %d: %s\n", number, damage)
			for _, text := range complaints[:min(len(complaints), 8)] {
				fmt.Println("  *", text)
			}
			if failed == 10 {
				break
			}
			continue
		}
		passed++
		row := damage.area + " | " + damage.kind
		if table[row] == nil {
			table[row] = map[outcome]int{}
		}
		table[row][result]++
	}
	print(table)
	fmt.Printf("%d trials in %d s; beside damaged pages %d keys were answered and %d refused\n", passed+failed, int(time.Since(started).Seconds()), made.answered, made.refused)
	return passed, failed
}

func print(table map[string]map[outcome]int) {
	var rows []string
	for row := range table {
		rows = append(rows, row)
	}
	sort.Strings(rows)
	fmt.Println("| place | kind | right | refused at open | found by reads | found by a write or the replay |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, row := range rows {
		counts := table[row]
		fmt.Printf("| %s | %d | %d | %d | %d |\n", row, counts[right], counts[refused], counts[found], counts[ended])
	}
}
