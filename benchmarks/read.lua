-- wrk ... -s read.lua URL -- PATH FIRST ACCOUNTS [KEY]: GET /accounts/{any}PATH of so many accounts from FIRST on.
-- Prints the reads per second, p99 in µs, and the number of errors.

function init(args)
    path, first, accounts = args[1], tonumber(args[2]), tonumber(args[3])
    if args[4] then
        wrk.headers["Authorization"] = "Bearer " .. args[4]
    end
end

function request()
    return wrk.format("GET", "/accounts/" .. math.random(first, first + accounts - 1) .. path)
end

function done(summary, latency)
    local errors = summary.errors
    print("READ " .. summary.requests / summary.duration * 1e6 .. " " .. latency:percentile(99) .. " "
        .. errors.connect + errors.read + errors.write + errors.timeout + errors.status)
end
