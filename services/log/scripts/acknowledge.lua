-- Remove inbox entries that need no report. ARGV: ns, worker, incarnation, entry ids
local ids = {}
for i = 4, #ARGV do ids[#ids + 1] = ARGV[i] end
remove_entries(ARGV[2], ARGV[3], ids)
return {'OK'}
