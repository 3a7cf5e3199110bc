-- Apply the effects of one batch, or nothing. Everything is checked before the first write: a script is never rolled back.
-- KEYS: position of the slot, dead letters of the use case.
-- ARGV: fence, start, next, k, effects as msgpack:
--   {dead letters as {reason, n}, lanes as
--     {prefix of its keys, items read as {id, checksum or ''}, items changed as {id, value, stratum if new, rank if new},
--      counters as {name, n}, audits as {field, n}}}
-- Names that are made here from a prefix carry the use case's hash tag, as KEYS do.
local stored = redis.call('HMGET', KEYS[1], 'fence', 'next')
local position = stored[2] or '-1'
if stored[1] ~= ARGV[1] then return {'FENCED', position} end
if position ~= ARGV[2] then return {'MOVED', position} end

local dead, lanes = unpack(cmsgpack.unpack(ARGV[5]))
for _, lane in ipairs(lanes) do
  for _, read in ipairs(lane[2]) do
    -- Producers may use any key, so another partition's batch may have changed an item since it was read.
    if redis.call('GETRANGE', lane[1] .. 'item:' .. read[1], 0, 7) ~= read[2] then return {'STALE', position} end
  end
end

redis.call('HSET', KEYS[1], 'next', ARGV[3]) -- refused when memory is short, and then nothing was written
for _, count in ipairs(dead) do redis.call('HINCRBY', KEYS[2], count[1], count[2]) end
for _, lane in ipairs(lanes) do
  local prefix, touched, evicted = lane[1], {}, 0
  for _, item in ipairs(lane[3]) do
    redis.call('SET', prefix .. 'item:' .. item[1], item[2])
    if item[3] then
      redis.call('ZADD', prefix .. 'stratum:' .. item[3], item[4], item[1])
      touched[item[3]] = true
    end
  end
  for stratum in pairs(touched) do
    redis.call('SADD', prefix .. 'strata', stratum)
    local over = redis.call('ZCARD', prefix .. 'stratum:' .. stratum) - tonumber(ARGV[4])
    if over > 0 then
      local gone = redis.call('ZPOPMAX', prefix .. 'stratum:' .. stratum, over)
      for i = 1, #gone, 2 do
        local name = prefix .. 'item:' .. gone[i]
        -- A count that cannot be read is left for the integrity check to miss.
        evicted = evicted + (tonumber(redis.call('GETRANGE', name, 8, 15), 16) or 0)
        redis.call('DEL', name)
      end
    end
  end
  for _, count in ipairs(lane[4]) do redis.call('HINCRBY', prefix .. 'counters', count[1], count[2]) end
  if evicted > 0 then redis.call('HINCRBY', prefix .. 'counters', 'evicted', evicted) end
  for _, count in ipairs(lane[5]) do redis.call('HINCRBY', prefix .. 'audits', count[1], count[2]) end
end
return {'OK', ARGV[3]}
