// Command size compares a small store with a large one under the same load: how long a restart takes after SIGKILL,
// how much log it replays, how much anonymous memory the server holds, and what an idle server does.
//
// The page cache stays as it is: what is compared is the program's own work. All servers run at the same time, one
// under load at a time, so that a machine that others use slows all alike.
package main

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"time"
)

func main() {
	program := flag.String("program", "", "the ringstone program")
	small := flag.Int("small", 100_000, "keys of the small store")
	middle := flag.Int("middle", 500_000, "keys of the store whose memory the large one's is compared with: enough to fill its bounds")
	large := flag.Int("large", 5_000_000, "keys of the large store")
	kills := flag.Int("kills", 8, "SIGKILLs of each")
	valueBytes := flag.Int("value-bytes", 256, "bytes of a value")
	memoryLimit := flag.Int("memory-limit", 0, "the servers' --memory-limit in bytes; 0: their default")
	restartRatio := flag.Float64("restart-ratio", 1.2, "largest ratio of the median restart times, large to small")
	memoryRatio := flag.Float64("memory-ratio", 1.1, "largest ratio of the peaks of anonymous memory, large to middle")
	replayMiB := flag.Float64("replay-mib", 96, "most MiB of log that a restart may replay")
	longest := flag.Duration("longest", 6*time.Second, "longest time of load before a kill")
	seed := flag.Int64("seed", 1, "seed of the times")
	flag.Parse()
	if *program == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	bounds := bounds{*restartRatio, *memoryRatio, *replayMiB}
	sizes := []int{*small, *middle, *large}
	passed, failed := run(*program, sizes, *kills, *valueBytes, *memoryLimit, *longest, bounds, rand.New(rand.NewSource(*seed)))
	fmt.Printf("size: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

type bounds struct{ restartRatio, memoryRatio, replayMiB float64 }

func run(program string, sizes []int, kills, valueBytes, memoryLimit int, longest time.Duration, bounds bounds, random *rand.Rand) (passed, failed int) {
	stores := make([]*store, len(sizes))
	for i, keys := range sizes {
		store, err := newStore(program, keys, valueBytes, memoryLimit)
		if err == nil {
			defer store.remove()
			err = store.fill()
		}
		if err != nil {
			fmt.Println("FAILED:", err)
			return 0, 1
		}
		stores[i] = store
	}
	for kill := range kills {
		pause := time.Second + time.Duration(random.Int63n(int64(longest)))
		for _, store := range stores {
			if err := store.killUnderLoad(kill, pause); err != nil {
				fmt.Println("FAILED:", err)
				return passed, failed + 1
			}
		}
	}
	for _, store := range stores {
		if err := store.idle(); err != nil {
			fmt.Println("FAILED:", err)
			return passed, failed + 1
		}
		fmt.Println(store)
	}
	small, middle, large := stores[0], stores[1], stores[2]
	judge := func(good bool, format string, arguments ...any) {
		verdict := "ok"
		if good {
			passed++
		} else {
			failed++
			verdict = "FAILED"
		}
		fmt.Printf("%s: %s\n", verdict, fmt.Sprintf(format, arguments...))
	}
	ratio := large.restart() / small.restart()
	judge(ratio <= bounds.restartRatio, "median restart, %d keys to %d keys: %.2f, at most %.2f", large.keys, small.keys, ratio, bounds.restartRatio)
	ratio = float64(large.anonymousPeak) / float64(middle.anonymousPeak)
	judge(ratio <= bounds.memoryRatio, "peak of anonymous memory, %d keys to %d keys: %.2f, at most %.2f", large.keys, middle.keys, ratio, bounds.memoryRatio)
	for _, store := range stores {
		if memoryLimit > 0 {
			judge(store.anonymousPeak <= int64(memoryLimit), "%d keys: %d MiB of anonymous memory at most, the limit is %d", store.keys, store.anonymousPeak>>20, memoryLimit>>20)
		}
		most := slices.Max(store.replayedMiB)
		judge(most <= bounds.replayMiB, "%d keys: %.1f MiB of log replayed at most, the bound is %.0f", store.keys, most, bounds.replayMiB)
		judge(store.idleBytes == 0, "%d keys: idle, %d bytes written", store.keys, store.idleBytes)
		judge(store.idleCore < 0.01, "%d keys: idle, %.2f %% of a core", store.keys, 100*store.idleCore)
	}
	return passed, failed
}
