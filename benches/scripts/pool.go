// Goroutines between a bounded channel of inputs and one of results, as "Go by Example" shows a worker pool.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func cpu(usage syscall.Rusage) int64 { return usage.Utime.Nano() + usage.Stime.Nano() }

func main() {
	jobs, _ := strconv.Atoi(os.Args[2])
	atOnce, _ := strconv.Atoi(os.Args[3])
	job := map[string]func(uint64) uint64{
		"ready": func(n uint64) uint64 { return n },
		"yield": func(n uint64) uint64 { runtime.Gosched(); return n },
		"sleep": func(n uint64) uint64 { time.Sleep(time.Millisecond); return n },
	}[os.Args[1]]
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	start := time.Now()
	inputs, results := make(chan uint64, 1024), make(chan uint64, 1024)
	var workers sync.WaitGroup
	for i := 0; i < atOnce; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for n := range inputs {
				results <- job(n)
			}
		}()
	}
	go func() {
		for n := 0; n < jobs; n++ {
			inputs <- uint64(n)
		}
		close(inputs)
		workers.Wait()
		close(results)
	}()
	count, sum := 0, uint64(0)
	for n := range results {
		count++
		sum += n
	}
	wall := time.Since(start)
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	fmt.Printf(`{"wall_ns":%d,"cpu_ns":%d,"count":%d,"sum":%d,"peak_kib":%d}`+"\n",
		wall.Nanoseconds(), cpu(after)-cpu(before), count, sum, after.Maxrss)
}
