-- Append a leader's answers, deliver them, move its cursor.
-- ARGV: ns, service, epoch, commit_no, position, lease (ms), open tasks or '', tasks ever submitted, then for each answer:
--       kind (append, deliver, recall, revoke), type, data, worker, incarnation, extra (deliver) or inbox entry id (recall)
local service, epoch, commit_no, position, lease_ms, open = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local FIRST, WIDTH = 9, 6
local leader = ns .. ':leader:' .. service

local known = redis.call('HMGET', leader, 'epoch', 'commit_no')
if known[1] ~= epoch then return {'FENCED'} end
if known[2] ~= commit_no then return {'ALREADY', known[2], last_id()} end

-- Lua takes nothing back: all is checked before the first write.
local kinds = {append = true, deliver = true, recall = true, revoke = true}
if not is_id(position) then return redis.error_reply('BADARGS the position is no id') end
if (#ARGV - FIRST + 1) % WIDTH ~= 0 then return redis.error_reply('BADARGS an answer has 6 arguments') end
for i = FIRST, #ARGV, WIDTH do
  local kind = ARGV[i]
  if not kinds[kind] or ARGV[i + 1] == '' or ARGV[i + 2] == '' then return redis.error_reply('BADARGS an answer is incomplete') end
  if kind ~= 'append' and (ARGV[i + 3] == '' or not tonumber(ARGV[i + 4])) then return redis.error_reply('BADARGS an answer names no worker') end
  if kind == 'recall' and not is_id(ARGV[i + 5]) then return redis.error_reply('BADARGS a recall names no inbox entry') end
end

-- First a write that a server without memory refuses: then nothing was written at all.
redis.call('HSET', leader, 'commit_no', whole(tonumber(commit_no) + 1), 'expires', whole(clock() + lease_ms))
if open ~= '' and service == 'scheduler' then
  -- What came after the position is in nobody's count yet. A log that is folded to its end says how many were ever taken.
  local submitted, accepted = tonumber(ARGV[8]), tonumber(redis.call('HGET', leader, 'accepted') or '0')
  if accepted < submitted or (#ARGV < FIRST and position == last_id()) then accepted = submitted end
  redis.call('HSET', leader, 'open', whole(tonumber(open) + accepted - submitted), 'accepted', whole(accepted))
end

local last, skipped = '', false
for i = FIRST, #ARGV, WIDTH do
  local kind, type, data, worker, incarnation, more = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  if kind == 'recall' then
    -- Only what has not started can be taken back; the worker's START and this script cannot overlap.
    local there = #redis.call('XRANGE', inbox_of(worker, incarnation), more, more) > 0
    if there and redis.call('SISMEMBER', started_of(worker, incarnation), more) == 0 then
      last = append(type, data)
      remove_entries(worker, incarnation, {more})
    else
      skipped = true
    end
  else
    last = append(type, data)
    if kind == 'deliver' then
      -- The inbox entry has its event's id. Where the inbox is gone, so is the incarnation: the fold sees it.
      redis.call('XADD', inbox_of(worker, incarnation), 'NOMKSTREAM', last, 'type', type, 'data', data, 'extra', more)
    elseif kind == 'revoke' then
      local record = ns .. ':worker:' .. worker
      if redis.call('HGET', record, 'incarnation') == incarnation then redis.call('HSET', record, 'revoked', '1') end
      delete_inbox(worker, incarnation)
    end
  end
end
redis.pcall('XGROUP', 'SETID', events, service, position)  -- a service without a group of its own has no cursor to show
if skipped and last == '' then last = last_id() end
return {'OK', last}
