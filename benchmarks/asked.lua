-- For wrk: prints what was measured as JSON. With arguments, each request is for another URL:
--   base  directory with one %d, or none  file with one %d  places  files in each  first number
function init(args)
  if #args == 0 then return end
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
