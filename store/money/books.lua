-- Add one batch to a lane's books, once. Redis runs this as one step, by its own clock.
--
-- KEYS[1]  hash of all that was ever done, with 'since', the second in which the books were begun
-- KEYS[2]  what the names of the days' hashes begin with; the day (UTC, since 1970) follows. They share the hash tag.
-- KEYS[3]  the number of the writer's last batch; it expires
-- ARGV     number of this batch, seconds to keep KEYS[3], seconds to keep a day, then names and amounts in turn
--
-- Returns what was damaged and begins anew: a key of another type is set aside, a count that is no number is dropped. All
-- of it is looked for before the first write, because a script that ends half way is not rolled back.
local odd = {}
local function whole(name, kind)
  local found = redis.call('TYPE', name)['ok']
  if found == kind or found == 'none' then return end
  redis.call('RENAME', name, name .. ':aside')
  odd[#odd + 1] = name .. ' was of type ' .. found
end
whole(KEYS[3], 'string')
if (tonumber(redis.call('GET', KEYS[3]) or '0') or 0) >= tonumber(ARGV[1]) then return odd end
local now_s = tonumber(redis.call('TIME')[1])
local day = KEYS[2] .. math.floor(now_s / 86400)
for _, book in ipairs({KEYS[1], day}) do
  whole(book, 'hash')
  for place = 4, #ARGV, 2 do
    local count = redis.call('HGET', book, ARGV[place])
    if count and (#count > 18 or not string.match(count, '^%d+$')) then
      redis.call('HDEL', book, ARGV[place])
      odd[#odd + 1] = book .. ': ' .. ARGV[place] .. ' was ' .. string.sub(count, 1, 100)
    end
  end
end
redis.call('HSETNX', KEYS[1], 'since', now_s)
for place = 4, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[place], ARGV[place + 1])
  redis.call('HINCRBY', day, ARGV[place], ARGV[place + 1])
end
redis.call('EXPIRE', day, ARGV[3])
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
return odd
