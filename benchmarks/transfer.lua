-- One transfer a request, every request with a key of its own.
--
-- wrk ... -s transfer.lua URL -- RUN WORKLOAD FIRST_ACCOUNT ACCOUNTS SEED ANSWERS_FILE [WAIT_MS]
--
-- With WAIT_MS, every refusal (503) makes one client wait so long before its next request.
--
-- Each thread of wrk has a Lua state of its own; done() runs in another one and collects from all
-- of them. ANSWERS_FILE gets one JSON object: what wrk measured, how many answers had which
-- status, and the transaction id of every 200.

local threads = {}

function setup(thread)
    threads[#threads + 1] = thread
    thread:set("number", #threads)
end

local random = math.random
local workloads = {
    -- From any account to any other one.
    uniform = function(first, accounts)
        local from = random(0, accounts - 1)
        local to = (from + random(1, accounts - 1)) % accounts
        return first + from, first + to
    end,
    -- Out of one account, to any other one.
    hot = function(first, accounts)
        return first, first + random(1, accounts - 1)
    end,
    -- Between two accounts, either way.
    pair = function(first)
        local way = random(0, 1)
        return first + way, first + 1 - way
    end,
}

local choose, first, accounts, prefix, head
local sent, wait_ms, refused = 0, 0, 0

function init(args)
    choose, first, accounts = workloads[args[2]], tonumber(args[3]), tonumber(args[4])
    prefix = ',"amount":"1.00","idempotency_key":"' .. args[1] .. ":" .. number .. ":"
    head = "POST /transfer/ HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
        .. "\r\nContent-Type: application/json\r\nContent-Length: "
    math.randomseed(tonumber(args[5]) + number)
    -- Global, so that done() can get them.
    file, transactions, statuses = args[6], {}, {}
    wait_ms = tonumber(args[7] or 0)
end

function delay()
    if refused > 0 then
        refused = refused - 1
        return wait_ms
    end
    return 0
end

function request()
    sent = sent + 1
    local from, to = choose(first, accounts)
    local body = '{"from_account_id":' .. from .. ',"to_account_id":' .. to .. prefix .. sent .. '"}'
    return head .. #body .. "\r\n\r\n" .. body
end

function response(status, _, body)
    statuses[status] = (statuses[status] or 0) + 1
    if status == 503 and wait_ms > 0 then
        refused = refused + 1
    end
    if status == 200 then
        -- 0 is no transaction: an answer without one must not pass for a record.
        transactions[#transactions + 1] = body:match('"transaction_id":(%d+)') or "0"
    end
end

function done(summary, latency)
    local ids, counts = {}, {}
    for _, thread in ipairs(threads) do
        for _, id in ipairs(thread:get("transactions")) do
            ids[#ids + 1] = id
        end
        for status, count in pairs(thread:get("statuses")) do
            counts[#counts + 1] = "[" .. status .. "," .. count .. "]"
        end
    end
    local errors = summary.errors
    local output = assert(io.open(threads[1]:get("file"), "w"))
    output:write(string.format(
        '{"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"broken":%d,"statuses":[%s],"transactions":[%s]}',
        summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
        errors.connect + errors.read + errors.write + errors.timeout,
        table.concat(counts, ","), table.concat(ids, ",")))
    output:close()
end
