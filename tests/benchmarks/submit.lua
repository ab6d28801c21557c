-- Submissions for wrk. Arguments: the path, how many users take turns, a word that makes the
-- payloads of this run unlike those of any other, and the secret of an API key or an empty text.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  head = "POST " .. arguments[1] .. " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    .. "Content-Type: application/json\r\nContent-Length: "
  if arguments[4] and arguments[4] ~= "" then
    head = "POST " .. arguments[1] .. " HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
      .. arguments[4] .. "\r\nContent-Type: application/json\r\nContent-Length: "
  end
  users = tonumber(arguments[2])
  run = arguments[3] .. "-" .. number .. "-"
  count = 0
end

function request()
  count = count + 1
  local body = '{"user_id": "user-' .. count % users
    .. '", "kind": "echo", "payload": {"image": "' .. run .. count .. '", "width": 640}}'
  return head .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "refused": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
