// Clients that are recorded for an hour: they sleep nearly all the time.
//
// usage: clients WHAT HTTP_PORT LINES_PORT
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 5, IdleConnTimeout: 4 * time.Minute}}

func get(path string) *http.Response {
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%s%s", os.Args[2], path))
	if err != nil {
		panic(err)
	}
	return response
}

// A large body every three minutes that is neither read nor closed.
func bodyLeftOpen() {
	for {
		get("/big/report")
		time.Sleep(3 * time.Minute)
	}
}

// Five requests at a time every seven minutes: the pool's timeout closes what is idle for four.
func poolThatTimesOut() {
	for {
		done := make(chan bool)
		for range 5 {
			go func() {
				response := get("/slow/report")
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				done <- true
			}()
		}
		for range 5 {
			<-done
		}
		time.Sleep(7 * time.Minute)
	}
}

func main() {
	if os.Args[1] == "bodyLeftOpen" {
		bodyLeftOpen()
	}
	poolThatTimesOut()
}
