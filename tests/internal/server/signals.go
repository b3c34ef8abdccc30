package server

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// What a program that is told to end must take along: its temporary folders. Its servers end with it by themselves.
var temporary struct {
	sync.Mutex
	once    sync.Once
	folders []string
}

// TemporaryFolder makes a folder that is removed when SIGINT or SIGTERM ends the program; otherwise its maker removes it.
func TemporaryFolder(pattern string) (string, error) {
	folder, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	temporary.Lock()
	temporary.folders = append(temporary.folders, folder)
	temporary.Unlock()
	temporary.once.Do(func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			<-signals
			temporary.Lock()
			for _, folder := range temporary.folders {
				_ = os.RemoveAll(folder)
			}
			os.Exit(130)
		}()
	})
	return folder, nil
}
