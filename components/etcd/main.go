// etcd in one executable: the server, etcdctl (speaks to members) and etcdutl
// (works on data files, the tool that restores a snapshot), chosen by the name
// of the link.
package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	name := filepath.Base(os.Args[0])
	// Called by another name, the first argument may be the program; what is
	// not one of the three stays the server's.
	if name != "etcdctl" && name != "etcdutl" && len(os.Args) > 1 {
		switch program := filepath.Base(os.Args[1]); program {
		case "etcd", "etcdctl", "etcdutl":
			name = program
			os.Args = os.Args[1:]
		}
	}
	switch name {
	case "etcdctl":
		ctlv3.MustStart()
	case "etcdutl":
		if err := etcdutlCommand().Execute(); err != nil {
			cobrautl.ExitWithError(cobrautl.ExitError, err)
		}
	default:
		etcdmain.Main(os.Args)
	}
}

// etcdutlCommand is the root command of upstream's etcdutl, which lives in its
// main package and so cannot be imported; the subcommands are upstream's.
func etcdutlCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "etcdutl",
		Short: "An administrative command line tool for etcd3.",
	}
	root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple",
		"set the output format (fields, json, protobuf, simple, table)")
	root.AddCommand(
		etcdutl.NewDefragCommand(),
		etcdutl.NewSnapshotCommand(),
		etcdutl.NewHashKVCommand(),
		etcdutl.NewVersionCommand(),
		etcdutl.NewCompletionCommand(),
		etcdutl.NewMigrateCommand(),
	)
	return root
}
