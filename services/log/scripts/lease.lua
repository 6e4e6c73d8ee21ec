-- Take a service's lease: a new epoch. The barrier is the log's last id, that of this LeaderElected.
-- ARGV: ns, run_id, log_started, service, holder, lease (ms), server_restarted, leader_elected with "epoch":0, then the log's groups
local run_id, log_started, service, holder, lease_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local leader = ns .. ':leader:' .. service
local now = clock()

local known = redis.call('HMGET', leader, 'epoch', 'commit_no', 'holder', 'expires')
local left = tonumber(known[4] or '0') - now
if left > 0 and known[3] ~= holder then return {'HELD', known[3], whole(left)} end

start_log(run_id, log_started)
if redis.call('HGET', ns .. ':log', 'run_id') ~= run_id then
  redis.call('HSET', ns .. ':log', 'run_id', run_id)
  append('ServerRestarted', ARGV[7])
end
local epoch, commit_no = whole(tonumber(known[1] or '0') + 1), known[2] or '0'
redis.call('HSET', leader, 'epoch', epoch, 'commit_no', commit_no, 'holder', holder, 'expires', whole(now + lease_ms))
local elected = string.gsub(ARGV[8], '"epoch":0', '"epoch":' .. epoch, 1)
local last = append('LeaderElected', elected)
for i = 9, #ARGV do
  redis.pcall('XGROUP', 'CREATE', events, ARGV[i], '0')  -- BUSYGROUP: it is there already
end
return {'OK', epoch, commit_no, last, whole(now)}
