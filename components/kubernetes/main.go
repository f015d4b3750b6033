// Kubernetes in one executable: the six programs share nearly all their code,
// so one file with links takes a quarter of the disk and its pages are shared
// between the processes that run it.
//
// Each program is the one that upstream's cmd/ folder builds: the same command
// constructor, run the same way. What is ours is the choice by name.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // CronJob time zones: the image carries no zone files

	"github.com/spf13/cobra"

	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's credential plugins
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // version metric
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs maps the name of a link to what runs under it; the value is the
// exit status of the process.
var programs = map[string]func() int{
	"kubelet":                 daemon(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"kube-apiserver":          daemon(apiserver.NewAPIServerCommand),
	"kube-controller-manager": daemon(controllermanager.NewControllerManagerCommand),
	"kube-scheduler":          daemon(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              daemon(proxy.NewProxyCommand),
	"kubectl":                 runKubectl,
}

// daemon defers building the command: a constructor registers flags and feature
// gates, and two programs' in one process would collide.
func daemon(command func() *cobra.Command) func() int {
	return func() int {
		startQuickly()
		return cli.Run(command())
	}
}

// While a daemon starts, its heap only grows: with the usual pace of collection
// a sixth of the API server's work until it is ready is to look through what
// stays (docs/benchmarks.md). So it collects a quarter as often at first, and
// then gives back what it did not need. GOMEMLIMIT bounds it all the time.
const (
	startPace = 400
	usualPace = 100
	startTime = 5 * time.Minute
)

func startQuickly() {
	if _, chosen := os.LookupEnv("GOGC"); chosen {
		return
	}
	debug.SetGCPercent(startPace)
	time.AfterFunc(startTime, func() {
		debug.SetGCPercent(usualPace)
		debug.FreeOSMemory()
	})
}

func runKubectl() int {
	// As upstream: klog's verbosity must be set before the command exists,
	// because building it already looks for plugins and reads .kuberc.
	logs.GlogSetter(kubectl.GetLogVerbosity(os.Args)) //nolint:errcheck // upstream ignores it too
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err) // prints and exits
	}
	return 0
}

func main() {
	if run, known := programs[filepath.Base(os.Args[0])]; known {
		os.Exit(run())
	}
	// Any other name: the first argument is the program.
	if len(os.Args) > 1 {
		if run, known := programs[filepath.Base(os.Args[1])]; known {
			os.Args = os.Args[1:]
			os.Exit(run())
		}
	}
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "%s: call it by a link, or give the program as first argument: one of %s\n",
		os.Args[0], strings.Join(names, ", "))
	os.Exit(2)
}
