-- Start dispatches that are still in the worker's inbox. ARGV: ns, worker, incarnation, lowest and highest entry id, then entry id, data, …
-- Answers '1' for each that may run, '0' for each that was taken back or has ended.
local worker, incarnation = ARGV[2], ARGV[3]
if not is_current(worker, incarnation) then return {'LOST'} end
local started = started_of(worker, incarnation)

local waiting = {}  -- entries that were delivered and not acknowledged, in one range for the whole batch
local pending = redis.pcall('XPENDING', inbox_of(worker, incarnation), 'worker', ARGV[4], ARGV[5], 1000000)
if pending.err then return {'LOST'} end
for _, entry in ipairs(pending) do waiting[entry[1]] = true end

local marked = {}  -- those that were started before: a repeat
for first = 6, #ARGV, 2000 do
  local ids = {}
  for i = first, math.min(first + 1999, #ARGV), 2 do ids[#ids + 1] = ARGV[i] end
  for n, mark in ipairs(redis.call('SMISMEMBER', started, unpack(ids))) do marked[ids[n]] = mark == 1 end
  local fresh = {}
  for _, id in ipairs(ids) do
    if waiting[id] and not marked[id] then fresh[#fresh + 1] = id end
  end
  if #fresh > 0 then redis.call('SADD', started, unpack(fresh)) end
end

local answers = {'OK'}
for i = 6, #ARGV, 2 do
  local entry = ARGV[i]
  if waiting[entry] and not marked[entry] then
    append('AttemptStarted', ARGV[i + 1])
    marked[entry] = true
  end
  answers[#answers + 1] = waiting[entry] and '1' or '0'
end
return answers
