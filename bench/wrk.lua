-- What wrk sends, and its result as one JSON line. `wrk -s wrk.lua URL -- same|varying|upload FIRST PAUSE_MS`.
--
-- same: wrk's own request, built once; the head never changes.
-- upload: a POST of 16 KiB, built once.
-- varying: heads as browsers send them: 15 fields, about 700 bytes with a cookie. A running number in the path and in the cookie
-- makes each one new, so that a proxy cannot answer from a memory of heads that it has parsed. It counts from FIRST,
-- so that a warm-up and the measurement after it share none.
-- PAUSE_MS: the mean of the random time that a connection waits before each request; 0: none.

local agents = {
  "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
  "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
  "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
  "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
}
local languages = { "en-GB,en;q=0.8", "de-CH,de;q=0.9,en;q=0.6", "fr-FR,fr;q=0.9", "ja-JP,ja;q=0.8,en;q=0.5", "pt-BR" }
local accepts = {
  "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
  "application/json, text/plain, */*",
  "image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.5",
}
local sites = { "shop", "news", "mail", "maps", "docs", "play", "team" }
local STYLES = 420 -- 4 agents x 5 languages x 3 accepts x 7 sites, each combination once

local befores, betweens, afters = {}, {}, {}
local number = 0

local function pick(list, n) return list[n % #list + 1] end

local function prepare()
  math.randomseed(7) -- the same heads for every contestant
  local path, host = wrk.path, wrk.host .. ":" .. wrk.port
  for n = 0, STYLES - 1 do
    local site = pick(sites, n)
    local token = {}
    for i = 1, 12 do token[i] = string.format("%04x", math.random(0, 65535)) end
    befores[n] = "GET " .. path .. "?item="
    betweens[n] = " HTTP/1.1\r\nHost: " .. host
      .. "\r\nUser-Agent: " .. pick(agents, n)
      .. "\r\nAccept: " .. pick(accepts, n)
      .. "\r\nAccept-Language: " .. pick(languages, n)
      .. "\r\nAccept-Encoding: gzip, deflate, br, zstd"
      .. "\r\nReferer: https://" .. site .. ".example/list/" .. n .. "?page=" .. n % 13
      .. "\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin"
      .. "\r\nSec-CH-UA-Mobile: ?0\r\nSec-CH-UA-Platform: \"Linux\"\r\nDNT: 1\r\nUpgrade-Insecure-Requests: 1"
      .. "\r\nPriority: u=" .. n % 7 .. ", i"
      .. "\r\nCookie: session=" .. table.concat(token) .. "; theme=dark; consent=1; seen="
    afters[n] = "\r\n\r\n"
  end
end

local function varying()
  number = number + 1
  local n = number % STYLES
  return befores[n] .. number .. betweens[n] .. number .. afters[n]
end

function init(args)
  if args[1] == "varying" then
    prepare()
    number = tonumber(args[2])
    request = varying
  elseif args[1] == "upload" then
    wrk.method = "POST"
    wrk.body = string.rep("k", 16384)
  end
  local pause = tonumber(args[3])
  if pause > 0 then
    function delay() return math.random(0, 2 * pause) end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"received":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,'
      .. '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.bytes, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
