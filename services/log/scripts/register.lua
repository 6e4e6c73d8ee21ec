-- Register a worker's incarnation and make its inbox.
-- ARGV: ns, run_id, log_started, worker, incarnation, nonce, alive for (ms), data
local run_id, log_started, worker, incarnation, nonce = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local alive_ms, data = tonumber(ARGV[7]), ARGV[8]
local record = ns .. ':worker:' .. worker
local now = clock()

local known = redis.call('HMGET', record, 'incarnation', 'nonce', 'revoked', 'alive_until', 'registered')
local before = tonumber(known[1] or '0')
if known[1] then
  local alive = known[3] ~= '1' and tonumber(known[4]) > now
  if alive and known[2] ~= nonce then return {'REFUSED', known[4] - now} end
  if before == tonumber(incarnation) and known[2] == nonce and known[3] ~= '1' then return {'OK', known[5]} end
  if before >= tonumber(incarnation) then return {'OLD', known[1]} end
end

start_log(run_id, log_started)
local id = append('WorkerRegistered', data)
redis.call('HSET', record, 'incarnation', incarnation, 'nonce', nonce, 'revoked', '0', 'alive_until', whole(now + alive_ms), 'registered', id)
if known[1] then delete_inbox(worker, known[1]) end
redis.call('XGROUP', 'CREATE', inbox_of(worker, incarnation), 'worker', '0', 'MKSTREAM')

-- Report counters of incarnations so old that no late report can come any more.
for _, field in ipairs(redis.call('HKEYS', record)) do
  local old = string.match(field, '^seq:(%d+)$')
  if old and tonumber(old) < tonumber(incarnation) - 64 then redis.call('HDEL', record, field) end
end
return {'OK', id}
