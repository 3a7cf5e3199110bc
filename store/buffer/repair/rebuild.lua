-- Put what was staged in the place of what is kept, or do nothing: all of it in one step, under the fences drawn for it.
-- KEYS: position of each slot of the use case.
-- ARGV: the fences, as msgpack; the lanes as msgpack {prefix of its keys, whether all of it is staged}; prefix of the use case;
-- the count of letters that were dealt with, where it and that of all are staged, else nothing.
local fences, lanes = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
for i, fence in ipairs(fences) do
  if redis.call('HGET', KEYS[i], 'fence') ~= fence then return 0 end -- ingest has claimed it since: look again
end
local function type_of(name) return redis.call('TYPE', name)['ok'] end
local function members(name) return type_of(name) == 'set' and redis.call('SMEMBERS', name) or {} end
local function ranked(name, ...) return type_of(name) == 'zset' and redis.call('ZRANGE', name, 0, -1, ...) or {} end
local function put(staged, name)
  if redis.call('EXISTS', staged) == 1 then redis.call('RENAME', staged, name) end
end
for _, lane in ipairs(lanes) do
  local prefix, whole = lane[1], lane[2]
  local staged, strata = prefix .. 'rebuild:', members(prefix .. 'strata')
  if whole then
    for _, stratum in ipairs(strata) do
      for _, id in ipairs(ranked(prefix .. 'stratum:' .. stratum)) do redis.call('DEL', prefix .. 'item:' .. id) end
      redis.call('DEL', prefix .. 'stratum:' .. stratum)
    end
    redis.call('DEL', prefix .. 'strata', prefix .. 'counters', prefix .. 'audits')
  end
  for _, id in ipairs(members(staged .. 'drop')) do
    redis.call('DEL', prefix .. 'item:' .. id)
    for _, stratum in ipairs(strata) do redis.pcall('ZREM', prefix .. 'stratum:' .. stratum, id) end
  end
  if type_of(prefix .. 'strata') ~= 'set' then redis.call('DEL', prefix .. 'strata') end
  for _, stratum in ipairs(members(staged .. 'strata')) do
    local name, found = prefix .. 'stratum:' .. stratum, ranked(staged .. 'stratum:' .. stratum, 'WITHSCORES')
    if type_of(name) ~= 'zset' then redis.call('DEL', name) end
    for i = 1, #found, 2 do
      redis.call('RENAME', staged .. 'item:' .. found[i], prefix .. 'item:' .. found[i])
      redis.call('ZADD', name, found[i + 1], found[i])
    end
    if #found > 0 then redis.call('SADD', prefix .. 'strata', stratum) end
    redis.call('DEL', staged .. 'stratum:' .. stratum)
  end
  put(staged .. 'counters', prefix .. 'counters')
  put(staged .. 'audits', prefix .. 'audits')
  redis.call('DEL', staged .. 'strata', staged .. 'drop', prefix .. 'damaged')
end
if ARGV[4] ~= '' then
  redis.call('DEL', ARGV[3] .. 'dead', ARGV[4])
  put(ARGV[3] .. 'rebuild:dead', ARGV[3] .. 'dead')
  put(ARGV[3] .. 'rebuild:settled', ARGV[4])
end
redis.call('DEL', ARGV[3] .. 'damaged')
return 1
