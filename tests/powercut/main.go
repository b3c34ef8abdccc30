// Command powercut holds a server to its word when the power goes: its data is on an ext4 file system of its own, which is shut
// down under its hands without a flush of anything (EXT4_IOC_SHUTDOWN). What was not synced is gone, as it is when a disk with
// a write-back cache loses power. After each cut the file system is mounted again, the server started, and everything that was
// acknowledged must be there (package ledger).
//
// The process is stopped before the cut: a sync that is under way while a file system is shut down can return success
// with nothing on disk, and no machine lives on after its power cut to tell somebody so.
//
// It must run as root in a mount namespace of its own (the script beside it sees to that): mounts and loop devices go with it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"time"

	"ringstone.test/internal/ledger"
	"ringstone.test/internal/loopdisk"
	"ringstone.test/internal/server"
)

// diskBytes is sparse. A member refuses puts while less than two segments and a checkpoint are free.
const diskBytes = 2 << 30

func main() {
	command := flag.String("server", "", "command of the server, as in \"ringstone serve\"")
	cuts := flag.Int("cuts", 2000, "power cuts")
	writers := flag.Int("writers", 8, "concurrent writers, a connection each")
	longest := flag.Duration("longest", 500*time.Millisecond, "longest time from the first write to the cut")
	starting := flag.Int("starting", 75, "of 100 cuts, those that come while the server starts")
	large := flag.Int("large", 100_000, "bytes of the large values; 0: none")
	seed := flag.Int64("seed", 0, "seed of keys and times; 0 picks one and prints it")
	flag.Parse()
	if *command == "" || flag.NArg() > 0 || *cuts < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if *seed == 0 {
		*seed = time.Now().UnixNano() % 1_000_000_000
	}
	fmt.Printf("seed %d, %d cuts, %d writers, %q\n", *seed, *cuts, *writers, *command)
	options := ledger.Options{Writers: *writers, Everything: true, LargeBytes: *large}
	run := run{longest: *longest, starting: *starting, options: options, random: rand.New(rand.NewSource(*seed)), book: ledger.New()}
	err := run.cut(*command, *cuts)
	failed := 0
	if err != nil {
		failed = 1
		fmt.Println("FAILED", err)
	}
	fmt.Printf("%d cuts under load, %d while it started; %d acknowledged writes, compacted to %d of %d\n",
		run.underLoad, run.whileStarting, run.book.Acknowledged(), run.book.Compacted(), run.book.Revision())
	fmt.Printf("powercut: %d passed, %d failed, 0 skipped\n", run.passed, failed)
	os.Exit(failed)
}

type run struct {
	longest  time.Duration
	starting int
	options  ledger.Options
	random   *rand.Rand
	book     *ledger.Ledger
	disk     loopdisk.Disk
	child    *server.Server

	passed, underLoad, whileStarting int
}

func (r *run) cut(target string, cuts int) error {
	folder, err := server.TemporaryFolder("powercut-")
	if err != nil {
		return err
	}
	r.disk = loopdisk.In(folder)
	if err := errors.Join(r.disk.Make(diskBytes), r.disk.On()); err != nil {
		return err
	}
	failed := true
	defer func() {
		r.child.Kill()
		if failed {
			fmt.Println("the disk is kept")
			return
		}
		_ = r.disk.Off()
		_ = os.RemoveAll(folder)
	}()
	if r.child, err = server.New(target, r.disk.Mount); err != nil {
		return err
	}
	if err := r.child.Start(60 * time.Second); err != nil {
		return err
	}
	for r.passed < cuts {
		if err := r.round(); err != nil {
			return fmt.Errorf("cut %d: %w", r.passed, err)
		}
	}
	failed = false
	return nil
}

// round is a cut under load, some while the server recovers from it, and the check.
func (r *run) round() error {
	load := r.book.Start(r.child.Endpoint, r.passed, r.options, r.random.Int63())
	time.Sleep(5*time.Millisecond + time.Duration(r.random.Int63n(int64(r.longest))))
	err := r.crash()
	load.Finish(r.book)
	if err != nil {
		return err
	}
	cuts := 1
	r.underLoad++
	for r.random.Intn(100) < r.starting {
		if err := r.child.Launch(); err != nil {
			return err
		}
		time.Sleep(time.Duration(r.random.Int63n(int64(150 * time.Millisecond))))
		if !r.child.Alive() {
			return fmt.Errorf("it has ended while it started:\n%s", r.child.LogTail())
		}
		if err := r.crash(); err != nil {
			return err
		}
		cuts++
		r.whileStarting++
	}
	started := time.Now()
	if err := r.child.Start(60 * time.Second); err != nil {
		return err
	}
	recovery := time.Since(started)
	full := r.passed/100 != (r.passed+cuts)/100
	if complaints := r.book.Verify(r.child.Endpoint, full, r.random); len(complaints) > 0 {
		return fmt.Errorf("%s", strings.Join(complaints[:min(10, len(complaints))], "\n  * "))
	}
	r.passed += cuts
	if full || r.passed < 100 {
		fmt.Printf("%d cuts: revision %d, serving again after %d ms\n", r.passed, r.book.Revision(), recovery.Milliseconds())
	}
	return nil
}

// crash freezes the server, cuts the power, and puts the disk back as the cut has left it.
func (r *run) crash() error {
	if err := r.child.Freeze(); err != nil {
		return err
	}
	if err := r.disk.CutPower(); err != nil {
		return err
	}
	r.child.Kill()
	return errors.Join(r.disk.Off(), r.disk.On())
}
