// Command differential sends the same random calls to two servers and compares their answers field by field.
//
// The control is etcd 3.7.3 as tests/control/build.sh makes it; the target is anything that takes etcd's flags. A run
// is cut into epochs, each over two fresh servers, so that a difference spoils no more than its own epoch. A seed and an
// epoch repeat a failure: -seed S -epoch E.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	control := flag.String("control", "", "command of etcd, or host:port of a fresh one")
	target := flag.String("target", "", "command of the server under test, as in \"ringstone serve\", or host:port of a fresh one")
	seed := flag.Int64("seed", 0, "seed of the run; 0 picks one from the clock and prints it")
	calls := flag.Int("calls", 100_000, "number of calls")
	perEpoch := flag.Int("epoch-calls", 5000, "calls for each pair of fresh servers")
	only := flag.Int("epoch", -1, "run only this epoch of the seed")
	fatal := flag.Bool("fatal", false, "send to the target alone the calls that end etcd, instead of the random ones")
	failures := flag.Int("failures", 20, "stop after so many")
	known := flag.Bool("known", false, "print the list of known differences and end")
	flag.Parse()
	if *known {
		printKnown()
		return
	}
	if *target == "" || *control == "" && !*fatal || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if *fatal {
		finish("steady", runFatal, *target)
	}
	if isEndpoint(*control) || isEndpoint(*target) {
		*perEpoch = *calls // what we did not start we cannot start afresh
	}
	if *seed == 0 {
		*seed = time.Now().UnixNano() % 1_000_000_000
	}
	fmt.Printf("seed %d, %d calls, control %q, target %q\n", *seed, *calls, *control, *target)
	cover := newCoverage()
	passed, failed := 0, 0
	start := time.Now()
	for epoch := 0; epoch*(*perEpoch) < *calls && failed < *failures; epoch++ {
		if *only >= 0 && epoch != *only {
			continue
		}
		budget := min(*perEpoch, *calls-epoch*(*perEpoch))
		p, f := runEpoch(*control, *target, cover, *seed, epoch, budget, *failures-failed)
		passed, failed = passed+p, failed+f
		logf("epoch %d: %d calls passed, %d failed, %.0f s", epoch, p, f, time.Since(start).Seconds())
	}
	if *only < 0 {
		failed += cover.report()
	}
	fmt.Printf("\ndifferential: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// finish runs a check that stands alone and ends the program.
func finish(name string, check func(string) (int, int), target string) {
	passed, failed := check(target)
	fmt.Printf("\n%s: %d passed, %d failed, 0 skipped\n", name, passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}

func runEpoch(control, target string, cover *coverage, seed int64, epoch, budget, failures int) (passed, failed int) {
	notify := "--watch-progress-notify-interval=1s"
	c, err := openSide("control", control, notify, "--unsafe-no-fsync")
	if err != nil {
		fmt.Printf("FAILED: %v\n", err)
		return 0, 1
	}
	defer c.close()
	t, err := openSide("target", target, notify)
	if err != nil {
		fmt.Printf("FAILED: %v\n", err)
		return 0, 1
	}
	defer t.close()
	r := newRunner(c, t, cover, seed, epoch, budget)
	r.mostFailures = failures
	r.run()
	return r.passed, r.failed
}
