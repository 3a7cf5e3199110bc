-- Apply the effects of one batch, or nothing. Everything is checked before the first write: a script is never rolled back.
-- KEYS: position of the slot, dead letters of the use case, what was found damaged in the use case.
-- ARGV: fence, start, next, k, effects as msgpack:
--   {dead letters as {reason, n}, lanes as
--     {prefix of its keys, items read as {id, checksum or ''}, items changed as {id, value, stratum if new, rank if new},
--      counters as {name, n}, audits as {field, n}}}
-- Names that are made here from a prefix carry the use case's hash tag, as KEYS do.
local function type_of(name) return redis.call('TYPE', name)['ok'] end
if type_of(KEYS[1]) ~= 'hash' then return {'FENCED', '-1'} end -- the next claim says what is wrong
local stored = redis.call('HMGET', KEYS[1], 'fence', 'next')
local position = stored[2] or '-1'
if stored[1] ~= ARGV[1] then return {'FENCED', position} end
if position ~= ARGV[2] then return {'MOVED', position} end

local dead, lanes = unpack(cmsgpack.unpack(ARGV[5]))
for _, lane in ipairs(lanes) do
  for _, read in ipairs(lane[2]) do
    -- Producers may use any key, so another partition's batch may have changed an item since it was read.
    local name = lane[1] .. 'item:' .. read[1]
    local seen = redis.pcall('GETRANGE', name, 0, 7)
    if type(seen) == 'table' then -- no text at all: as good as gone, and written over below
      redis.call('HSET', lane[1] .. 'damaged', read[1], 'of type ' .. type_of(name))
      seen = ''
    end
    if seen ~= read[2] then return {'STALE', position} end
  end
end

-- What is not of its kind would end the script half way. It is set aside, with a note, and begins anew.
local function of_kind(name, kind, notes, note)
  local found = type_of(name)
  if found == kind or found == 'none' then return end
  redis.call('HSET', notes, note, 'of type ' .. found)
  redis.call('RENAME', name, name .. ':aside')
end
local function counts_of(name, counts, notes, note)
  of_kind(name, 'hash', notes, note)
  for _, count in ipairs(counts) do
    local value = redis.call('HGET', name, count[1])
    if value and not string.match(value, '^%-?%d+$') then
      redis.call('HSET', notes, note .. ':' .. count[1], value)
      redis.call('HDEL', name, count[1])
    end
  end
end
counts_of(KEYS[2], dead, KEYS[3], 'dead')
for _, lane in ipairs(lanes) do
  local prefix, notes = lane[1], lane[1] .. 'damaged'
  of_kind(prefix .. 'strata', 'set', notes, 'strata')
  for _, item in ipairs(lane[3]) do
    if item[3] then of_kind(prefix .. 'stratum:' .. item[3], 'zset', notes, 'stratum:' .. item[3]) end
  end
  counts_of(prefix .. 'counters', lane[4], notes, 'counters')
  counts_of(prefix .. 'counters', {{'evicted'}}, notes, 'counters')
  counts_of(prefix .. 'audits', lane[5], notes, 'audits')
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
        local head = redis.pcall('GETRANGE', name, 8, 15)
        evicted = evicted + (type(head) == 'string' and tonumber(head, 16) or 0)
        redis.call('DEL', name)
      end
    end
  end
  for _, count in ipairs(lane[4]) do redis.call('HINCRBY', prefix .. 'counters', count[1], count[2]) end
  if evicted > 0 then redis.call('HINCRBY', prefix .. 'counters', 'evicted', evicted) end
  for _, count in ipairs(lane[5]) do redis.call('HINCRBY', prefix .. 'audits', count[1], count[2]) end
end
return {'OK', ARGV[3]}
