-- Read a slot on from another position, under the fence that was drawn for it.
-- KEYS: position of the slot, the use case's record of skips.  ARGV: fence, position to read from, the skip as JSON.
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end -- claimed by another since: look again
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[1], 'next', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'fence', 1)
return 1
