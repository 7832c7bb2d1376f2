// The tiny app on node's own HTTP server. Usage: node app.js HOST PORT MILLISECONDS
"use strict";

const fs = require("node:fs");
const http = require("node:http");

const [host, port, keepAliveMs] = process.argv.slice(2);
const file = process.env.KALAB_EXECUTIONS;
const executions = file ? fs.openSync(file, "a") : undefined;

// One line, one write. process.hrtime reads CLOCK_MONOTONIC, the clock of every other witness.
function addExecution(request) {
  const reqId = request.headers["x-request-id"] ?? "";
  const details = JSON.stringify({ kind: "exchange.executed", req_id: reqId, method: request.method, target: request.url });
  fs.writeSync(executions, `{"t":${process.hrtime.bigint()},${details.slice(1)}\n`);
}

function delayMsOf(target) {
  const asked = /[?&]delay=(\d+(?:\.\d+)?)(ms|s)(?:&|$)/.exec(target);
  return asked ? Number(asked[1]) * (asked[2] === "s" ? 1000 : 1) : 0;
}

function answer(response) {
  response.writeHead(200, { "Content-Type": "text/plain", "Content-Length": 3 });
  response.end("ok\n");
}

const server = http.createServer((request, response) => {
  request.resume();
  request.on("end", () => {
    if (executions !== undefined) addExecution(request);
    const delayMs = delayMsOf(request.url);
    if (delayMs) setTimeout(answer, delayMs, response);
    else answer(response);
  });
});

server.keepAliveTimeout = Number(keepAliveMs);
server.listen({ host, port: Number(port), backlog: 4096 });
// As the first process of a container, node would ignore the signal without this.
process.on("SIGTERM", () => process.exit(0));
