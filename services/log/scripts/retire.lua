-- A worker goes in good order. ARGV: ns, worker, incarnation, data
local worker, incarnation = ARGV[2], ARGV[3]
if not is_current(worker, incarnation) then return {'OK', ''} end
local id = append('WorkerRetired', ARGV[4])
redis.call('HSET', ns .. ':worker:' .. worker, 'revoked', '1')
delete_inbox(worker, incarnation)
return {'OK', id}
