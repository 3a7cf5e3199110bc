-- Set a damaged item aside: its bytes are kept, and the item is neither found nor ranked any more.
-- KEYS: item, what was found damaged in the lane, the lane's strata.  ARGV: id, value as it was seen, prefix of strata.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end -- another has done it, or written it anew
redis.call('HSET', KEYS[2], ARGV[1], redis.call('HLEN', KEYS[2]) < 1000 and ARGV[2] or '')
for _, stratum in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  redis.pcall('ZREM', ARGV[3] .. stratum, ARGV[1])
end
redis.call('DEL', KEYS[1])
return 1
