// Command hello is the service that proves scaling from zero to one and back.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	host, _ := os.Hostname()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		// ?wait=2s holds the request open: pending requests must keep the pod alive.
		if d, err := time.ParseDuration(r.URL.Query().Get("wait")); err == nil {
			time.Sleep(min(d, time.Minute))
		}
		fmt.Fprintf(w, "hello from %s, revision %s\n", host, os.Getenv("K_REVISION"))
	})
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
