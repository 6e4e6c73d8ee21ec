-- Append many submissions without a key, each whole or not at all: one call costs a third of as many calls of submit.
-- ARGV: ns, run_id, log_started, backlog limit, then for each submission: number of its tasks, number of its events, then type, data, …
-- Answers for each the id of its last event, or 'FULL'; before them the number of open tasks.
local run_id, log_started, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local leader = ns .. ':leader:scheduler'

-- Lua takes nothing back: all is checked before the first write.
local at = 5
while at <= #ARGV do
  local tasks, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  if not tasks or not count or count < 1 then return redis.error_reply('BADARGS a submission has no events') end
  at = at + 2 + 2 * count
end
if at ~= #ARGV + 1 then return redis.error_reply('BADARGS a submission is incomplete') end

local open = 0
if limit > 0 then open = tonumber(redis.call('HGET', leader, 'open') or '0') end
start_log(run_id, log_started)
local added, answers = 0, {'OK', ''}
at = 5
while at <= #ARGV do
  local tasks, after = tonumber(ARGV[at]), at + 2 + 2 * tonumber(ARGV[at + 1])
  local last = 'FULL'
  if limit == 0 or tasks == 0 or open + added + tasks <= limit then
    for i = at + 2, after - 2, 2 do last = append(ARGV[i], ARGV[i + 1]) end
    added = added + tasks
  end
  answers[#answers + 1] = last
  at = after
end
if added > 0 then
  redis.call('HINCRBY', leader, 'open', added)
  redis.call('HINCRBY', leader, 'accepted', added)
end
answers[2] = whole(open + added)
return answers
