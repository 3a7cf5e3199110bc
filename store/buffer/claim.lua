-- Take a slot over: draw a fence that voids every earlier one, and say where to read from.
-- KEYS: position of the slot, set of the use case's slots.  ARGV: owner, the slot as JSON.
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('SADD', KEYS[2], ARGV[2])
return {fence, redis.call('HGET', KEYS[1], 'next') or '-1'}
