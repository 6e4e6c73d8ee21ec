-- Prolong the lease of an epoch (or, with 0 ms, give it back). ARGV: ns, service, epoch, lease (ms)
local leader = ns .. ':leader:' .. ARGV[2]
if redis.call('HGET', leader, 'epoch') ~= ARGV[3] then return {'FENCED'} end
local now = clock()
redis.call('HSET', leader, 'expires', whole(now + tonumber(ARGV[4])))
return {'OK', whole(now)}
