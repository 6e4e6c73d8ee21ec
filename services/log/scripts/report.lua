-- Append the reports of one incarnation that were not seen before, and remove the inbox entries of attempts that ended.
-- ARGV: ns, run_id, log_started, worker, incarnation, first number, then type, data, inbox entry id or '', …
local run_id, log_started, worker, incarnation, first = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local record, counter = ns .. ':worker:' .. worker, 'seq:' .. incarnation
local WIDTH = 3
if (#ARGV - 6) % WIDTH ~= 0 then return redis.error_reply('BADARGS a report has 3 arguments') end

local seen = tonumber(redis.call('HGET', record, counter) or '0')
local newest = first + (#ARGV - 6) / WIDTH - 1
if newest > seen then
  redis.call('HSET', record, counter, whole(newest))
  start_log(run_id, log_started)
end
local ended = {}
for i = 7, #ARGV, WIDTH do
  local number = first + (i - 7) / WIDTH
  if number > seen then append(ARGV[i], ARGV[i + 1]) end
  if ARGV[i + 2] ~= '' then ended[#ended + 1] = ARGV[i + 2] end
end
remove_entries(worker, incarnation, ended)
return {'OK'}
