"""A blocking server from Python's standard library, with a thread for each connection.

threaded_server.py HOST PORT
"""
import hashlib
import http.server
import socket
import sys
import time

import contract


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                if size == 0:
                    while self.rfile.readline() != b"\r\n":
                        pass
                    return
                while size:
                    piece = self.rfile.read1(min(size, contract.STEP))
                    if not piece:
                        raise ConnectionError
                    size -= len(piece)
                    yield piece
                assert self.rfile.readline() == b"\r\n"
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read1(min(left, contract.STEP))
            if not piece:
                raise ConnectionError
            left -= len(piece)
            yield piece

    def start(self, *fields, status=200):
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))
        self.wfile.flush()

    def text(self, text, status=200):
        self.start(("Content-Length", len(text)), status=status)
        self.wfile.write(text)

    def answer(self):
        what, _, n = self.path.strip("/").partition("/")
        n = int(n) if n.isdigit() else 0
        if what == "sink":
            digest, length = hashlib.sha256(), 0
            for piece in self.body():
                length += len(piece)
                digest.update(piece)
            return self.text(b"%d %b\n" % (length, digest.hexdigest().encode()))
        if what == "echo":
            self.start(("Transfer-Encoding", "chunked"))
            for piece in self.body():
                self.chunk(piece)
            return self.wfile.write(b"0\r\n\r\n")
        for _ in self.body():
            pass
        if what == "bytes":
            self.start(("Content-Length", n))
            for piece in contract.steps(n if self.command != "HEAD" else 0):
                self.wfile.write(piece)
        elif what == "chunked":
            self.start(("Transfer-Encoding", "chunked"))
            for piece in contract.steps(n):
                self.chunk(piece)
            self.wfile.write(b"0\r\n\r\n")
        elif what == "close":
            self.start(("Connection", "close"))
            for piece in contract.steps(n):
                self.wfile.write(piece)
        elif what == "events":
            self.start(("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
            for i in range(n):
                self.chunk(b"data: %d\n\n" % i)
                time.sleep(0.01)
            self.wfile.write(b"0\r\n\r\n")
        elif what == "head":
            lines = [self.requestline] + ["%s: %s" % pair for pair in self.headers.items()]
            self.text("".join(line + "\n" for line in lines).encode("latin-1"))
        elif what == "status":
            self.start(*([] if n in (204, 304) else [("Content-Length", 0)]), status=n)
        else:
            self.text(b"not here\n", status=404)

    do_GET = do_HEAD = do_POST = do_PUT = answer


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 4096
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET


server = Server((sys.argv[1], int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
