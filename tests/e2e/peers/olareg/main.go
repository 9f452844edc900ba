// Command olareg is the registry that has the referrers API: olareg's own server in memory, with a page as small as a
// test needs to see more than one. Its first line of output is its address, each further one a request: what was asked
// for and the User-Agent, in quotes.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

func main() {
	page := flag.Int64("page-bytes", 4<<20, "how large a page of the referrers API may become")
	address := flag.String("address", "127.0.0.1:0", "where to listen")
	flag.Parse()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	yes := true
	registry := olareg.New(config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreMem},
		API: config.ConfigAPI{
			PushEnabled: &yes,
			Referrer:    config.ConfigAPIReferrer{Enabled: &yes, Limit: *page},
		},
	})
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		registry.ServeHTTP(w, r)
		fmt.Printf("%q %q\n", r.Method+" "+r.URL.Path, r.UserAgent())
	})))
}
