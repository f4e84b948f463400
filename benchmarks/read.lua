-- wrk ... -s read.lua URL -- PATH ACCOUNTS: GET /accounts/{any}PATH. Prints p99 in µs and the number of errors.

function init(args)
    path, accounts = args[1] or "", tonumber(args[2])
end

function request()
    return wrk.format("GET", "/accounts/" .. math.random(1, accounts) .. path)
end

function done(summary, latency)
    local errors = summary.errors
    print("READ " .. latency:percentile(99) .. " "
        .. errors.connect + errors.read + errors.write + errors.timeout + errors.status)
end
