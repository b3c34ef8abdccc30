// Command hostile attacks a server. Each attack has a server of its own, an honest client beside it, and three verdicts:
// the server's anonymous memory stays within its limit and 64 MiB; the honest client sees no error, and a p99 under ten
// times that of quiet times; the attacker ends as it should.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"ringstone.test/internal/server"
)

const (
	memoryLimit = 256 << 20
	// memorySlack is what may come on top of the configured limit.
	memorySlack = 64 << 20
	// slowerMax is how many times its quiet p99 the honest client's may be.
	slowerMax = 10
	// slowerShort is what is allowed at least in the short form: a few hundred calls on a machine that does other things
	// have no p99 that says more.
	slowerShort = 250 * time.Millisecond
	// casesBound is what a table of single requests may take on a machine that does other things.
	casesBound = 30 * time.Second
	// newcomerBound is how long after an attack a new client may have to try.
	newcomerBound = 5 * time.Second
	// quietTime is how long the honest client is alone before each attack.
	quietTime = 500 * time.Millisecond
)

// attack is one way to harm a server.
type attack struct {
	name string
	// bound is the limit that stops it, for the table.
	bound string
	// want is the expected end, for the table.
	want string
	// long: not in the short form.
	long bool
	// store fills the store before.
	store func(endpoint string) error
	// cases: single requests, each tried once, which end the attack when all are answered.
	cases bool
	// lasts, where it is not the usual time.
	lasts time.Duration
	run   func(*arena)
	// check judges the endings: a complaint or nothing.
	check func(*arena) string
	// flags of the server beside the usual ones.
	flags []string
}

// arena is where an attack takes place.
type arena struct {
	context.Context
	endpoint string
	ends     *endings
	short    bool
	// pid is the server's.
	pid int
}

type outcome struct {
	attack      *attack
	ends        string
	complaints  []string
	quietMemory int64
	peakMemory  int64
	during      *felt
}

func main() {
	command := flag.String("server", "", "command of the server, as in \"ringstone serve\"")
	short := flag.Bool("short", false, "the form for every change: fewer attacks, each for a shorter time")
	only := flag.String("only", "", "names of attacks, joined by commas")
	seconds := flag.Float64("seconds", 4, "how long each attack lasts")
	table := flag.String("table", "", "write a table in Markdown to this file")
	role := flag.String("role", "", "for processes that this program starts")
	endpoint := flag.String("endpoint", "", "as -role")
	pid := flag.Int("pid", 0, "as -role")
	flag.Parse()
	if *role != "" {
		lasts := time.Duration(*seconds * float64(time.Second))
		if err := play(*role, *only, *endpoint, *pid, lasts, *short); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if *command == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if *short {
		*seconds = min(*seconds, 0.6)
	}
	quiet := &felt{}
	var outcomes []*outcome
	skipped := 0
	for _, attack := range attacks() {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), attack.name) || *only == "" && *short && attack.long {
			if *only == "" {
				skipped++
			}
			continue
		}
		lasts := time.Duration(*seconds * float64(time.Second))
		if attack.lasts > 0 {
			lasts = attack.lasts
			if *short {
				lasts = min(lasts, 2*time.Second)
			}
		}
		if attack.cases {
			lasts = casesBound
		}
		outcome, err := fight(*command, &attack, lasts, *short, quiet)
		if err != nil {
			outcome.complaints = append(outcome.complaints, err.Error())
		}
		fmt.Printf("%-26s %3d -> %3d MiB, p99 %8v, %v\n", attack.name, outcome.quietMemory>>20, outcome.peakMemory>>20, outcome.during.at(99).Round(10*time.Microsecond), outcome.ends)
		outcomes = append(outcomes, outcome)
	}
	slower := time.Duration(0)
	if *short {
		slower = slowerShort
	}
	passed, failed := judge(outcomes, quiet, slower)
	if *table != "" {
		if err := os.WriteFile(*table, []byte(markdown(outcomes, quiet)), 0o644); err != nil {
			fmt.Println(err)
			failed++
		}
	}
	if skipped > 0 {
		fmt.Println(skipped, "attacks are in the long form only")
	}
	fmt.Printf("hostile: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func play(role, name, endpoint string, pid int, lasts time.Duration, short bool) error {
	switch role {
	case honestRole:
		return playHonest(endpoint)
	case attackerRole:
		return playAttacker(name, endpoint, pid, lasts, short)
	}
	return fmt.Errorf("no role %q", role)
}

// fight runs one attack against a new server.
func fight(command string, attack *attack, lasts time.Duration, short bool, quiet *felt) (*outcome, error) {
	result := &outcome{attack: attack, during: &felt{}}
	folder, err := server.TemporaryFolder("hostile-")
	if err != nil {
		return result, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	flags := append([]string{fmt.Sprintf("--memory-limit=%d", memoryLimit)}, attack.flags...)
	child, err := server.New(command, folder, flags...)
	if err == nil {
		err = child.Start(30 * time.Second)
	}
	if err != nil {
		return result, err
	}
	defer child.Kill()
	if attack.store != nil {
		if err := attack.store(child.Endpoint); err != nil {
			return result, err
		}
	}
	honest, err := startHonest(child.Endpoint)
	if err != nil {
		return result, err
	}
	defer honest.end()
	if err := honest.start(); err != nil {
		return result, err
	}
	time.Sleep(quietTime)
	if err := honest.stop(quiet); err != nil {
		return result, err
	}
	result.quietMemory = anonymous(child.Pid())
	memory := watchMemory(child.Pid())
	if err := honest.start(); err != nil {
		return result, err
	}
	told, err := attackFrom(attack, child.Endpoint, child.Pid(), lasts, short)
	if err == nil {
		err = honest.stop(result.during)
	}
	result.peakMemory = memory.finish()
	result.ends = told.Ends
	if !child.Alive() {
		return result, fmt.Errorf("the server ended: %s", child.LogTail())
	}
	if err != nil {
		return result, err
	}
	if told.Complaint != "" {
		result.complaints = append(result.complaints, told.Complaint)
	}
	// A server that survived answers newcomers again, once it has seen that the attackers are gone.
	for deadline := time.Now().Add(newcomerBound); ; time.Sleep(50 * time.Millisecond) {
		err := server.Probe(child.Endpoint, newcomerBound)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			result.complaints = append(result.complaints, fmt.Sprintf("a new client afterwards: %v", err))
			break
		}
	}
	return result, nil
}

// judge adds what is to be said of all attacks; a p99 of slowest or less is never too slow.
func judge(outcomes []*outcome, quiet *felt, slowest time.Duration) (passed, failed int) {
	fmt.Printf("the honest client alone: %d calls, p99 %v, errors %d\n", len(quiet.took), quiet.at(99), len(quiet.errors))
	for _, outcome := range outcomes {
		complain := func(format string, arguments ...any) {
			outcome.complaints = append(outcome.complaints, fmt.Sprintf(format, arguments...))
		}
		if outcome.peakMemory > memoryLimit+memorySlack {
			complain("%d MiB of memory, the bound is %d", outcome.peakMemory>>20, (memoryLimit+memorySlack)>>20)
		}
		if n := len(outcome.during.errors); n > 0 {
			complain("%d errors of the honest client, the first: %v", n, outcome.during.errors[0])
		}
		if len(outcome.during.took) == 0 {
			complain("the honest client had no answer")
		}
		if slow := outcome.during.at(99); slow > max(slowerMax*quiet.at(99), slowest) {
			complain("the honest client's p99 is %v, %.1f times the quiet one", slow, ratio(outcome, quiet))
		}
		if len(outcome.complaints) == 0 {
			passed++
			continue
		}
		failed++
		for _, complaint := range outcome.complaints {
			fmt.Printf("FAILED %s: %s\n", outcome.attack.name, complaint)
		}
	}
	return passed, failed
}

func ratio(outcome *outcome, quiet *felt) float64 {
	return float64(outcome.during.at(99)) / float64(quiet.at(99))
}

func markdown(outcomes []*outcome, quiet *felt) string {
	var text strings.Builder
	text.WriteString("| attack | bound | end | memory: quiet, peak (MiB) | honest p99, x quiet |\n|---|---|---|---|---|\n")
	for _, o := range outcomes {
		fmt.Fprintf(&text, "| %s | %s | %s | %d, %d | %.1f |\n", o.attack.name, o.attack.bound, o.attack.want, o.quietMemory>>20, o.peakMemory>>20, ratio(o, quiet))
	}
	return text.String()
}
