-- Start dispatches that are still in the worker's inbox. ARGV: ns, worker, incarnation, lowest and highest entry id, then entry id, data, …
-- Answers '1' for each that may run, '0' for each that was taken back or has ended.
local worker, incarnation = ARGV[2], ARGV[3]
if not is_current(worker, incarnation) then return {'LOST'} end
local started = started_of(worker, incarnation)

local waiting = {}  -- entries that were delivered and not acknowledged, in one range for the whole batch
local pending = redis.pcall('XPENDING', inbox_of(worker, incarnation), 'worker', ARGV[4], ARGV[5], 1000000)
if pending.err then return {'LOST'} end
for _, entry in ipairs(pending) do waiting[entry[1]] = true end

local answers = {'OK'}
for i = 6, #ARGV, 2 do
  local entry = ARGV[i]
  if not waiting[entry] then
    answers[#answers + 1] = '0'
  else
    if redis.call('SADD', started, entry) == 1 then append('AttemptStarted', ARGV[i + 1]) end
    answers[#answers + 1] = '1'
  end
end
return answers
