// A reverse proxy as Go's library has it: httputil.ReverseProxy that flushes at once, with what a busy proxy is advised
// to set: kept-alive connections to the server for all clients, no compression of its own, buffers that are reused.
//
// go_proxy LISTEN TLS-LISTEN CERTIFICATE KEY SERVER
package main

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
)

// As large as the library's own.
const bufferSize = 32 << 10

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte { return *b.pool.Get().(*[]byte) }

func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }

func main() {
	log.SetFlags(0)
	if len(os.Args) != 6 {
		log.Fatal("go_proxy LISTEN TLS-LISTEN CERTIFICATE KEY SERVER")
	}
	listen, listenTLS, certificate, key := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: os.Args[5]})
	proxy.FlushInterval = -1
	// Clients that leave early are no news here.
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.BufferPool = &buffers{sync.Pool{New: func() interface{} {
		buffer := make([]byte, bufferSize)
		return &buffer
	}}}
	proxy.Transport = &http.Transport{
		MaxIdleConns:        0, // no limit
		MaxIdleConnsPerHost: 4096,
		DisableCompression:  true,
	}
	server := http.Server{
		Addr:      listenTLS,
		Handler:   proxy,
		ErrorLog:  proxy.ErrorLog,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13},
	}
	go func() { log.Fatal(server.ListenAndServeTLS(certificate, key)) }()
	plain := http.Server{Addr: listen, Handler: proxy, ErrorLog: proxy.ErrorLog}
	log.Fatal(plain.ListenAndServe())
}
