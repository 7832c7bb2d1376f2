// The least proxy of the http-proxy package: PORT UPSTREAM_PORT IDLE.
const http = require("http");
const httpProxy = require("http-proxy");

const [port, upstream, idle] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true, maxFreeSockets: idle });
const proxy = httpProxy.createProxyServer({ target: { host: "127.0.0.1", port: upstream }, agent });
proxy.on("error", (error, request, response) => {
  if (!response.headersSent) response.writeHead(502);
  response.end();
});
const server = http.createServer((request, response) => proxy.web(request, response));
server.keepAliveTimeout = 300_000;
server.listen({ host: "127.0.0.1", port, backlog: 4096 });
