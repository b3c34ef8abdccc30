// Command shrink deletes four fifths of a store, twice: once beside puts, whose latency it compares with that of the same
// puts without it, and once with nothing else to do, when the file must become short within a bound. What is left must be
// all there, also after a SIGKILL, and the whole-file check must find nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

type settings struct {
	program     string
	mib         int64
	valueBytes  int
	ratio       float64
	slackMiB    int64
	idle        time.Duration
	measured    time.Duration
	besideBound time.Duration
	judgePuts   bool
	hot         int
}

func main() {
	var s settings
	flag.StringVar(&s.program, "program", "", "the ringstone program")
	flag.Int64Var(&s.mib, "mib", 2048, "MiB of the page file before anything is deleted")
	flag.IntVar(&s.valueBytes, "value-bytes", 1000, "bytes of a value")
	flag.Float64Var(&s.ratio, "ratio", 2, "largest ratio of put p99 beside the shrinking to that without")
	flag.Int64Var(&s.slackMiB, "slack-mib", 0, "MiB that the file may have besides 1.3 times what lives")
	flag.DurationVar(&s.idle, "idle", time.Minute, "time of idleness within which the file must be short")
	flag.DurationVar(&s.measured, "measured", 10*time.Second, "how long puts without the shrinking are measured, before and after")
	flag.DurationVar(&s.besideBound, "beside", 3*time.Minute, "within this the file must be cut beside puts")
	flag.IntVar(&s.hot, "hot", 0, "put to so many keys only; 0: to all that stay")
	small := flag.Bool("small", false, "150 MiB, and puts are not judged")
	flag.Parse()
	if s.program == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	s.judgePuts = !*small
	if *small {
		// Puts all over so small a store would need as much room for what they replace as was freed.
		s.hot = 200
		// A store so small keeps 16 MiB that are not worth a shrink.
		s.mib, s.slackMiB, s.measured, s.idle, s.besideBound = 150, 16, 2*time.Second, 30*time.Second, 8*time.Second
	}
	judge := &judge{}
	if err := run(s, judge); err != nil {
		fmt.Println("FAILED:", err)
		judge.failed++
	}
	fmt.Printf("shrink: %d passed, %d failed, %d skipped\n", judge.passed, judge.failed, judge.skipped)
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

func run(s settings, judge *judge) error {
	store, err := newStore(s)
	if err != nil {
		return err
	}
	defer store.remove()
	defer func() {
		if judge.failed > 0 {
			fmt.Println(store.said("page file"))
		}
	}()
	if err := besidePuts(s, store, judge); err != nil {
		return err
	}
	if err := idle(s, store, judge); err != nil {
		return err
	}
	return restart(s, store, judge)
}

// besidePuts shrinks the file while clients put.
func besidePuts(s settings, store *store, judge *judge) error {
	if err := store.fill(s.mib << 20); err != nil {
		return err
	}
	before, err := store.puts(time.After(s.measured))
	if err != nil {
		return err
	}
	if err := store.deleteMost(); err != nil {
		return err
	}
	figures, err := store.figures()
	if err != nil {
		return err
	}
	began, long := time.Now(), figures.file
	cut := make(chan time.Time, 1)
	go func() {
		// Until it is cut, or the bound is over.
		for time.Since(began) < s.besideBound {
			if now, err := store.figures(); err == nil && now.file < long*7/10 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		cut <- time.Now()
	}()
	beside, err := store.puts(cut)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if figures, err = store.figures(); err != nil {
		return err
	}
	after, err := store.puts(time.After(s.measured))
	if err != nil {
		return err
	}
	// On a small store what the load needs may be more than what was freed.
	decide := judge.that
	if !s.judgePuts {
		decide = func(_ bool, format string, arguments ...any) { fmt.Printf("not judged: "+format+"\n", arguments...) }
	}
	decide(figures.file < long*7/10, "beside puts, after %v: the file has %d MiB of %d, %d in use", took.Round(time.Millisecond), figures.file>>20, long>>20, figures.inUse>>20)
	fmt.Printf("puts before: %v\nputs beside: %v\nputs after:  %v\n", before, beside, after)
	without := (before.At(99) + after.At(99)) / 2
	ratio := float64(beside.At(99)) / float64(without)
	if s.judgePuts {
		judge.that(ratio <= s.ratio, "put p99 beside the shrinking to that without: %.2f, at most %.2f", ratio, s.ratio)
	} else {
		fmt.Printf("put p99 beside the shrinking to that without: %.2f, not judged\n", ratio)
	}
	return nil
}

// idle shrinks the file while nobody asks for anything.
func idle(s settings, store *store, judge *judge) error {
	if err := store.fill(s.mib << 20); err != nil {
		return err
	}
	if err := store.deleteMost(); err != nil {
		return err
	}
	began := time.Now()
	first, err := store.figures()
	if err != nil {
		return err
	}
	for now := first; ; time.Sleep(100 * time.Millisecond) {
		if now, err = store.figures(); err != nil {
			return err
		}
		// What waits for the metas to let go of it does not live.
		bound := now.inUse*13/10 + s.slackMiB<<20
		if now.file <= bound && now.file < first.file/2 || time.Since(began) > s.idle {
			judge.that(now.file <= bound && now.file < first.file/2, "after %v of idleness the file has %d MiB of %d, %d in use: %.2f of it", time.Since(began).Round(100*time.Millisecond), now.file>>20, first.file>>20, now.inUse>>20, float64(now.file)/float64(now.inUse))
			return store.check("after the shrink", judge)
		}
	}
}

// restart looks whether what a SIGKILL leaves is whole.
func restart(s settings, store *store, judge *judge) error {
	store.server.Kill()
	if err := store.server.Start(time.Minute); err != nil {
		return err
	}
	if err := store.check("after a SIGKILL", judge); err != nil {
		return err
	}
	if err := store.server.Stop(time.Minute); err != nil {
		return err
	}
	output, err := exec.Command(s.program, "inspect", "pages", store.pageFile()).CombinedOutput()
	judge.that(err == nil && strings.Contains(string(output), "check: sound"), "the whole-file check finds nothing")
	if err != nil {
		fmt.Println(string(output))
	}
	return nil
}
