// Command spawn runs a server for the time of another command:
//
//	spawn -server "ringstone serve" -- program arguments... {}
//
// It starts the server on free loopback ports with its data in a temporary folder, runs the program with {} replaced by
// the client address, host:port, stops the server, and ends with the program's exit status.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"ringstone.test/internal/server"
)

func main() {
	command := flag.String("server", "", "command of the server")
	flag.Parse()
	if *command == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(run(*command, flag.Args()))
}

func run(command string, program []string) int {
	folder, err := os.MkdirTemp("", "spawn-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	child, err := server.New(command, folder)
	if err == nil {
		err = child.Start(30 * time.Second)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer child.Kill()
	for i := range program {
		program[i] = strings.ReplaceAll(program[i], "{}", child.Endpoint)
	}
	status := runProgram(program)
	if !child.Alive() {
		fmt.Fprintf(os.Stderr, "the server ended by itself\n%s\n", child.LogTail())
		return 1
	}
	if err := child.Stop(15 * time.Second); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// runProgram passes signals on, so that the server is stopped in any case.
func runProgram(program []string) int {
	child := exec.Command(program[0], program[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := child.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for s := range signals {
			_ = child.Process.Signal(s)
		}
	}()
	err := child.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}
