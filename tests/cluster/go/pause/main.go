// Command pause does nothing but reap. It has two jobs: it is process 1 of the namespaces that the
// whole cluster lives in, and it is the sandbox container that every pod needs.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		// Orphans (container shims above all) become children of process 1. One signal may stand for
		// many of them, so take all that are there.
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
}
