// SPDX-License-Identifier: Apache-2.0

// Command app is the workload of demos and tests: one static binary that serves
// and asks over HTTP, so that container images need nothing else.
//
//	app serve NAME       answer HTTP on port 80 with the name, until killed
//	app get URL [WAIT]   ask once; WAIT is a duration, 2s by default
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatalf("app: %v", err)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 2 && args[0] == "get":
		return get(args[1], 2*time.Second)
	case len(args) == 3 && args[0] == "get":
		wait, err := time.ParseDuration(args[2])
		if err != nil {
			return fmt.Errorf("wait %q: %w", args[2], err)
		}
		return get(args[1], wait)
	}
	return errors.New("usage: app serve NAME | app get URL [WAIT]")
}

func serve(name string) error {
	listen := net.ListenConfig{}
	listen.SetMultipathTCP(false)
	l, err := listen.Listen(context.Background(), "tcp", ":80")
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s answers %s\n", name, r.RemoteAddr)
		}),
	}
	return server.Serve(l)
}

func get(url string, wait time.Duration) error {
	client := &http.Client{Timeout: wait}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, io.LimitReader(response.Body, 1<<20))
	return err
}
