-- Take a slot over: draw a fence that voids every earlier one, and say where to read from.
-- KEYS: position of the slot, set of the use case's slots.  ARGV: owner, the slot as JSON.
local function sound(name, kind)
  local found = redis.call('TYPE', name)['ok']
  if found == kind or found == 'none' then return true end
  redis.call('RENAME', name, name .. ':aside')
  return false
end
sound(KEYS[2], 'set')
if not sound(KEYS[1], 'hash') then redis.call('HSET', KEYS[1], 'next', 'lost') end -- a person must say where to read from
local fence = redis.call('HGET', KEYS[1], 'fence')
if fence and not string.match(fence, '^%d+$') then -- damaged: one that is higher than any drawn so far
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'fence', string.format('%d', tonumber(now[1]) * 1000000 + tonumber(now[2])))
end
fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('SADD', KEYS[2], ARGV[2])
return {fence, redis.call('HGET', KEYS[1], 'next') or '-1'}
