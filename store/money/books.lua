-- Add one batch to a lane's books, once. Redis runs this as one step, by its own clock.
--
-- KEYS[1]  hash of all that was ever done, with 'since', the second in which the books were begun
-- KEYS[2]  what the names of the days' hashes begin with; the day (UTC, since 1970) follows. They share the hash tag.
-- KEYS[3]  the number of the writer's last batch; it expires
-- ARGV     number of this batch, seconds to keep KEYS[3], seconds to keep a day, then names and amounts in turn
--
-- Returns 1 where it was added, 0 where it had been.
if tonumber(redis.call('GET', KEYS[3]) or '0') >= tonumber(ARGV[1]) then return 0 end
local now_s = tonumber(redis.call('TIME')[1])
local day = KEYS[2] .. math.floor(now_s / 86400)
redis.call('HSETNX', KEYS[1], 'since', now_s)
for place = 4, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[place], ARGV[place + 1])
  redis.call('HINCRBY', day, ARGV[place], ARGV[place + 1])
end
redis.call('EXPIRE', day, ARGV[3])
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
return 1
