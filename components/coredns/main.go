// CoreDNS with the plugins that the appliance's DNS and the cluster's DNS use.
// Upstream's own program links every plugin, most of whose bytes are cloud
// vendors' libraries.
//
// The order in which plugins see a query is upstream's: it is a list in
// core/dnsserver that coremain brings along, and naming a plugin of that list
// that is not linked here is an error when the Corefile is read.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metadata" // names that log, rewrite, template and view can use
	_ "github.com/coredns/coredns/plugin/metrics"  // the directive is "prometheus"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/multisocket"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/root"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/timeouts"
	_ "github.com/coredns/coredns/plugin/transfer" // lets file hand its zone to secondaries
	_ "github.com/coredns/coredns/plugin/view"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "check" {
		if err := check(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	coremain.Run()
}

// check reads the Corefile of the machine whose root is the folder given, and has every plugin read its part of it
// and the files that it names, as at a start. Nothing is bound and nobody is asked.
func check(root string) error {
	const path = "/etc/coredns/Corefile"
	text, err := os.ReadFile(root + path)
	if err != nil {
		return err
	}
	text = bytes.ReplaceAll(text, []byte(" /etc/"), []byte(" "+root+"/etc/"))
	input := caddy.CaddyfileInput{Filepath: root + path, Contents: text, ServerTypeName: "dns"}
	return caddy.ValidateAndExecuteDirectives(input, nil, true)
}
