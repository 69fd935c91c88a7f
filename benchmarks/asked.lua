-- For wrk: prints what was measured as JSON. With the argument `path`, each request for it has
-- another head. With further arguments, each is for another URL:
--   directory with one %d, or none  file with one %d  places  files in each  first number
local function distinct_heads(path)
  local number = 0
  request = function()
    number = number + 1
    return wrk.format("GET", path, {["Host"] = wrk.headers["Host"], ["X-Number"] = number})
  end
end

function init(args)
  if #args == 0 then return end
  if #args == 1 then return distinct_heads(args[1]) end
  local directory, file = args[1], args[2]
  local places, count, number = tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  request = function()
    local place = math.floor(number / count) % places
    -- Not in the order in which they came into the repository: 7919 is a prime.
    local path = string.format(directory, place) .. string.format(file, number * 7919 % count)
    number = number + 1
    return wrk.format("GET", path)
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "bytes": %d, "p50": %f, "p99": %f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
