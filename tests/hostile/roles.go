package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// The honest client and the attacker are processes of their own, so that neither waits for the other's threads. The
// attacker's is of lower priority: attackers come from other machines, and what is to be seen is what the server's time
// goes to, not what this machine's does.
const (
	honestRole   = "honest"
	attackerRole = "attacker"
	attackerNice = 9
)

// report is what an attacker's process tells at its end.
type report struct {
	Ends      string
	Complaint string
}

// tale is what the honest client's process tells of one phase.
type tale struct {
	Took   []time.Duration
	Errors []string
}

// playHonest works from each "start" to the next "stop" on standard input, and then tells what it felt.
func playHonest(endpoint string) error {
	client, err := newHonest(endpoint)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		ctx, cancel := context.WithCancel(context.Background())
		felt := &felt{}
		done := make(chan struct{})
		go func() {
			client.work(ctx, felt)
			close(done)
		}()
		lines.Scan()
		cancel()
		<-done
		told := tale{Took: felt.took}
		for _, err := range felt.errors {
			told.Errors = append(told.Errors, err.Error())
		}
		if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
			return err
		}
	}
	return nil
}

// actor is the honest client's process as seen from the referee's.
type actor struct {
	child *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
}

func startHonest(endpoint string) (*actor, error) {
	child, err := self("-role", honestRole, "-endpoint", endpoint)
	if err != nil {
		return nil, err
	}
	in, err := child.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &actor{child: child, in: in, out: json.NewDecoder(out)}, child.Start()
}

func (a *actor) start() error {
	_, err := io.WriteString(a.in, "start\n")
	return err
}

func (a *actor) stop(felt *felt) error {
	if _, err := io.WriteString(a.in, "stop\n"); err != nil {
		return err
	}
	var told tale
	if err := a.out.Decode(&told); err != nil {
		return fmt.Errorf("the honest client: %w", err)
	}
	felt.took = append(felt.took, told.Took...)
	for _, text := range told.Errors {
		felt.errors = append(felt.errors, errors.New(text))
	}
	return nil
}

func (a *actor) end() {
	_ = a.in.Close()
	_ = a.child.Wait()
}

// self is another process of this program; it does not outlive this one.
func self(arguments ...string) (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	child := exec.Command(program, arguments...)
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return child, nil
}

// attackFrom runs an attack in a process of its own.
func attackFrom(attack *attack, endpoint string, pid int, lasts time.Duration, short bool) (report, error) {
	var told report
	child, err := self("-role", attackerRole, "-endpoint", endpoint, "-only", attack.name, "-pid", strconv.Itoa(pid),
		"-seconds", fmt.Sprint(lasts.Seconds()), fmt.Sprintf("-short=%v", short))
	if err != nil {
		return told, err
	}
	out, err := child.Output()
	if err != nil {
		return told, fmt.Errorf("the attacker: %w", err)
	}
	return told, json.Unmarshal(out, &told)
}

func playAttacker(name, endpoint string, pid int, lasts time.Duration, short bool) error {
	lowerPriority()
	for _, attack := range attacks() {
		if attack.name != name {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), lasts)
		defer cancel()
		arena := &arena{Context: ctx, endpoint: endpoint, ends: newEndings(), short: short, pid: pid}
		attack.run(arena)
		return json.NewEncoder(os.Stdout).Encode(report{Ends: arena.ends.String(), Complaint: attack.check(arena)})
	}
	return fmt.Errorf("no attack %q", name)
}

// lowerPriority is for every thread there is; those that come later inherit it.
func lowerPriority() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			if nice, err := syscall.Getpriority(syscall.PRIO_PROCESS, id); err == nil {
				// The system call tells 20 - nice.
				_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, 20-nice+attackerNice)
			}
		}
	}
}
