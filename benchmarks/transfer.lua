-- One transfer per request, each with its own key.
--
-- wrk ... -s transfer.lua URL -- RUN WORKLOAD FIRST_ACCOUNT ACCOUNTS SEED ANSWERS_FILE [WAIT_MS [KEY]]
--
-- With WAIT_MS, a client whose request was refused (503) waits that long before its next one. With KEY, each request
-- sends it.
--
-- Each thread of wrk has its own Lua state; done() runs in another one and reads all of them.
-- ANSWERS_FILE gets one JSON object: the figures of wrk, the number of answers by status, and the
-- transaction id of every 200.

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
    -- From one account to any other one.
    hot = function(first, accounts)
        return first, first + random(1, accounts - 1)
    end,
    -- Between two accounts, in either direction.
    pair = function(first)
        local direction = random(0, 1)
        return first + direction, first + 1 - direction
    end,
}

local choose, first, accounts, prefix, head
local sent, wait_ms, refused = 0, 0, 0

function init(args)
    choose, first, accounts = workloads[args[2]], tonumber(args[3]), tonumber(args[4])
    prefix = ',"amount":"1.00","idempotency_key":"' .. args[1] .. ":" .. number .. ":"
    head = "POST /transfer/ HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
        .. (args[8] and "\r\nAuthorization: Bearer " .. args[8] or "")
        .. "\r\nContent-Type: application/json\r\nContent-Length: "
    math.randomseed(tonumber(args[5]) + number)
    -- Global, so that done() can read them.
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
        -- 0 is not the id of a transaction, so an answer without an id is counted as a fault.
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
