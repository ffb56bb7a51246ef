// Go's net/http: the runtime's poller (edge-triggered epoll), a goroutine for each connection, sendfile for files.
//
// go_server HOST PORT
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	period = 1048573
	step   = 65536
)

var table = pattern()

func pattern() []byte {
	once := make([]byte, 0, period+32)
	for i := uint64(0); len(once) < period; i++ {
		var counter [8]byte
		binary.LittleEndian.PutUint64(counter[:], i)
		sum := sha256.Sum256(counter[:])
		once = append(once, sum[:]...)
	}
	return append(once[:period:period], once[:period]...)
}

// Writes the pattern's first n bytes, as far as the client takes them.
func write(w io.Writer, n int64) {
	for at := int64(0); at < n; {
		start := at % period
		piece := table[start : start+min(n-at, step)]
		if _, err := w.Write(piece); err != nil {
			return
		}
		at += int64(len(piece))
	}
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

// Takes Write and Flush only, so that nothing shortens the way of an echo.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(piece []byte) (int, error) {
	n, err := f.ResponseWriter.Write(piece)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

func serve(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	n := int64(0)
	if len(parts) > 1 {
		n, _ = strconv.ParseInt(parts[1], 10, 64)
	}
	switch parts[0] {
	case "bytes":
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		if r.Method != "HEAD" {
			write(w, n)
		}
	case "chunked":
		w.(http.Flusher).Flush()
		write(w, n)
	case "file":
		// From a file: the runtime uses sendfile(2).
		file, err := os.CreateTemp("", "go-server-")
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		defer file.Close()
		os.Remove(file.Name())
		write(file, n)
		file.Seek(0, io.SeekStart)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.Copy(w, file)
	case "close":
		// net/http chunks every answer to HTTP/1.1 that has no length.
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
		write(conn, n)
	case "sink":
		digest := sha256.New()
		length, err := io.Copy(digest, r.Body)
		if err == nil {
			fmt.Fprintf(w, "%d %s\n", length, hex.EncodeToString(digest.Sum(nil)))
		}
	case "echo":
		// Not as it comes: this version reads no more of a request once its answer has begun.
		body, err := io.ReadAll(r.Body)
		if err == nil {
			w.(http.Flusher).Flush()
			w.Write(body)
		}
	case "events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := int64(0); i < n; i++ {
			fmt.Fprintf(flushing{w}, "data: %d\n\n", i)
			time.Sleep(10 * time.Millisecond)
		}
	case "head":
		fmt.Fprintf(w, "%s %s %s\nHost: %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
		for name, values := range r.Header {
			for _, value := range values {
				fmt.Fprintf(w, "%s: %s\n", name, value)
			}
		}
	case "status":
		w.WriteHeader(int(n))
	default:
		w.WriteHeader(404)
		io.WriteString(w, "not here\n")
	}
}

func main() {
	listener, err := net.Listen("tcp", net.JoinHostPort(os.Args[1], os.Args[2]))
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	panic(http.Serve(listener, http.HandlerFunc(serve)))
}
