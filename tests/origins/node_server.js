// Node's http module: libuv's event loop, streams with back pressure.
//
// node_server.js HOST PORT
"use strict";
const crypto = require("node:crypto");
const http = require("node:http");
const { Readable } = require("node:stream");

const PERIOD = 1048573;
const STEP = 65536;
const once = Buffer.alloc(PERIOD + 32);
for (let i = 0; i * 32 < PERIOD; i++) {
  const counter = Buffer.alloc(8);
  counter.writeUInt32LE(i);
  crypto.createHash("sha256").update(counter).digest().copy(once, i * 32);
}
const table = Buffer.concat([once.subarray(0, PERIOD), once.subarray(0, PERIOD)]);

function* steps(n) {
  for (let at = 0; at < n; ) {
    const start = at % PERIOD;
    const piece = table.subarray(start, start + Math.min(n - at, STEP));
    yield piece;
    at += piece.length;
  }
}

const server = http.createServer(async (request, response) => {
  const [what, number] = request.url.replace(/^\//, "").split("/");
  const n = Number(number) || 0;
  request.on("error", () => {});
  response.on("error", () => {});
  if (what === "sink") {
    const digest = crypto.createHash("sha256");
    let length = 0;
    request.on("data", (piece) => {
      length += piece.length;
      digest.update(piece);
    });
    request.on("end", () => {
      const text = `${length} ${digest.digest("hex")}\n`;
      response.writeHead(200, { "Content-Length": text.length }).end(text);
    });
    return;
  }
  if (what === "echo") {
    response.writeHead(200);
    request.pipe(response);
    return;
  }
  request.resume();
  if (what === "bytes") {
    response.writeHead(200, { "Content-Length": n });
    if (request.method === "HEAD") response.end();
    else Readable.from(steps(n), { objectMode: false }).pipe(response);
  } else if (what === "chunked") {
    response.writeHead(200, { "Transfer-Encoding": "chunked" });
    Readable.from(steps(n), { objectMode: false }).pipe(response);
  } else if (what === "close") {
    response.useChunkedEncodingByDefault = false;
    response.writeHead(200, { Connection: "close" });
    Readable.from(steps(n), { objectMode: false }).pipe(response);
  } else if (what === "events") {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (let i = 0; i < n; i++) {
      response.write(`data: ${i}\n\n`);
      await new Promise((wake) => setTimeout(wake, 10));
    }
    response.end();
  } else if (what === "head") {
    let text = `${request.method} ${request.url} HTTP/${request.httpVersion}\n`;
    for (let i = 0; i < request.rawHeaders.length; i += 2) text += `${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}\n`;
    response.writeHead(200, { "Content-Length": Buffer.byteLength(text, "latin1") }).end(text, "latin1");
  } else if (what === "status") {
    response.writeHead(n, n === 204 || n === 304 ? {} : { "Content-Length": 0 }).end();
  } else {
    response.writeHead(404, { "Content-Length": 9 }).end("not here\n");
  }
});
server.keepAliveTimeout = 0;
server.maxRequestsPerSocket = 0;
server.requestTimeout = 0;
server.listen({ host: process.argv[2], port: Number(process.argv[3]), backlog: 4096 }, () => console.log("ready"));
