-- What every script starts with. KEYS[1] is the control log; all other keys of the namespace are ARGV[1] .. ':<name>', in the same slot.
local events, ns = KEYS[1], ARGV[1]

-- The server's clock, ms since 1970.
local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- A whole number as text; Lua's own conversion turns large ones into 1e+15.
local function whole(number)
  return string.format('%.0f', number)
end

local function is_id(text)
  return string.find(text, '^%d+%-%d+$') ~= nil
end

-- Id of the newest entry that the log ever had.
local function last_id()
  local info = redis.call('XINFO', 'STREAM', events)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

-- The first entry of a log names it, whoever writes first.
local function start_log(run_id, log_started)
  if redis.call('EXISTS', events) == 0 then
    redis.call('XADD', events, '*', 'type', 'LogStarted', 'data', log_started)
    redis.call('HSET', ns .. ':log', 'run_id', run_id)
  end
end

local function append(type, data)
  return redis.call('XADD', events, '*', 'type', type, 'data', data)
end

local function inbox_of(worker, incarnation)
  return ns .. ':inbox:' .. worker .. ':' .. incarnation
end

-- Ids of the inbox entries that were started and have not ended.
local function started_of(worker, incarnation)
  return ns .. ':started:' .. worker .. ':' .. incarnation
end

-- The incarnation may act: it is the newest and was not revoked.
local function is_current(worker, incarnation)
  local known = redis.call('HMGET', ns .. ':worker:' .. worker, 'incarnation', 'revoked')
  return known[1] == incarnation and known[2] ~= '1'
end

local function delete_inbox(worker, incarnation)
  redis.call('DEL', inbox_of(worker, incarnation), started_of(worker, incarnation))
end

-- Entries leave an inbox: what is pending, stored and marked, in chunks that fit Lua's stack.
local function remove_entries(worker, incarnation, ids)
  local inbox, started = inbox_of(worker, incarnation), started_of(worker, incarnation)
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    redis.call('XACK', inbox, 'worker', unpack(ids, first, last))
    redis.call('XDEL', inbox, unpack(ids, first, last))
    redis.call('SREM', started, unpack(ids, first, last))
  end
end
