-- A worker's sign of life. ARGV: ns, worker, incarnation, alive for (ms), data, heartbeats are kept for (ms)
local worker, incarnation = ARGV[2], ARGV[3]
if not is_current(worker, incarnation) then return {'LOST'} end
local now = clock()
redis.call('XADD', ns .. ':heartbeats', 'MINID', '~', whole(now - tonumber(ARGV[6])), '*', 'data', ARGV[5])
redis.call('HSET', ns .. ':worker:' .. worker, 'alive_until', whole(now + tonumber(ARGV[4])))
return {'OK'}
