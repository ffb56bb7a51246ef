// A WebSocket echo server that passes Autobahn's cases: npm's `ws`, with permessage-deflate.
//
// NODE_PATH=... websocket_echo.js HOST PORT
"use strict";
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: process.argv[2],
  port: Number(process.argv[3]),
  perMessageDeflate: { threshold: 0 },
  maxPayload: 0,
  maxFragments: 0,
  maxBufferedChunks: 0,
});
server.on("connection", (socket) => {
  socket.on("error", () => {});
  socket.on("message", (message, binary) => socket.send(message, { binary }));
});
server.on("listening", () => console.log("ready"));
