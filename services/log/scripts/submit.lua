-- Append the events of one submission, once for each idempotency key.
-- ARGV: ns, run_id, log_started, key, body_sha256, key's time to live (ms), backlog limit, tasks (JSON), number of tasks, then type, data, …
local run_id, log_started, key, body, kept_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local limit, tasks, count = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local record = ns .. ':idempotency:' .. key
local leader = ns .. ':leader:scheduler'

if key ~= '' then
  local first = redis.call('HMGET', record, 'body_sha256', 'tasks', 'last_id')
  if first[1] then
    if first[1] ~= body then return {'CONFLICT'} end
    return {'REPEATED', first[2], first[3]}
  end
end
if limit > 0 and count > 0 then
  local open = tonumber(redis.call('HGET', leader, 'open') or '0')
  if open + count > limit then return {'FULL', whole(open)} end
end

start_log(run_id, log_started)
local last = ''
for i = 10, #ARGV, 2 do last = append(ARGV[i], ARGV[i + 1]) end
-- The scheduler's commits set the number of open tasks; until the next one it grows by what comes in.
if count > 0 then
  redis.call('HINCRBY', leader, 'open', count)
  redis.call('HINCRBY', leader, 'accepted', count)
end
if key ~= '' then
  redis.call('HSET', record, 'body_sha256', body, 'tasks', tasks, 'last_id', last)
  redis.call('PEXPIRE', record, kept_ms)
end
return {'OK', last}
