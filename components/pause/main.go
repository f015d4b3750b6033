// pause is the first process of every pod: it holds the pod's namespaces open
// and, where containers share a process namespace, is the PID 1 that inherits
// and reaps orphans. It ends, with status 0, on SIGTERM or SIGINT.
//
// Only os and syscall are imported: one of these runs for every pod.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

var version = "unknown" // set by the linker

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "-v" || os.Args[1] == "--version") {
		os.Stdout.WriteString("pause " + version + "\n")
		return
	}

	// Two channels: signals that find a channel full are dropped, and a burst
	// of dying children must not cost us the order to stop.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	child := make(chan os.Signal, 1)
	signal.Notify(child, syscall.SIGCHLD)

	reap() // children that died before we listened
	for {
		select {
		case <-stop:
			return
		case <-child:
			reap()
		}
	}
}

// reap collects every dead child: signals of one kind coalesce, so one SIGCHLD
// can stand for many.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
