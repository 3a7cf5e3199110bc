-- Read every key of ours in one step, so that all of it is of one instant. What was copied before and is as it was is only
-- named, and of a stream, whose entries never change, where it begins and ends: the step stays short however much there is.
-- ARGV: patterns of the keys' names, as msgpack; what names are left out, as Lua patterns in msgpack; what was copied
-- before, as msgpack {name = its first bytes}; how long a key must live on to be taken, in milliseconds.
-- Returns the time in milliseconds, then of each key {name, type, when it expires in milliseconds or 0, its content}.
local patterns, left, known = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local function number(value) return string.format('%d', value) end
local function is_left(name, ttl)
  if ttl >= 0 and ttl < tonumber(ARGV[4]) then return true end
  for _, pattern in ipairs(left) do
    if string.match(name, pattern) then return true end
  end
  return false
end
local function ends_of(name)
  local info, last = redis.call('XINFO', 'STREAM', name), '0-0'
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
  local first = redis.call('XRANGE', name, '-', '+', 'COUNT', 1)[1]
  return {first and first[1] or '', last}
end
local read = {
  string = function(name) return {redis.call('GET', name)} end,
  hash = function(name) return redis.call('HGETALL', name) end,
  list = function(name) return redis.call('LRANGE', name, 0, -1) end,
  set = function(name) return redis.call('SMEMBERS', name) end,
  zset = function(name) return redis.call('ZRANGE', name, 0, -1, 'WITHSCORES') end,
  stream = ends_of,
}
local found = {number(now_ms)}
for _, pattern in ipairs(patterns) do
  for _, name in ipairs(names_like(pattern)) do
    local kind, ttl = redis.call('TYPE', name)['ok'], redis.call('PTTL', name)
    if not is_left(name, ttl) then
      local expires = ttl < 0 and '0' or number(now_ms + ttl)
      if kind == 'string' and known[name] and redis.call('GETRANGE', name, 0, 7) == known[name] then
        found[#found + 1] = {name, 'same', expires, {}}
      elseif read[kind] then
        found[#found + 1] = {name, kind, expires, read[kind](name)}
      else
        return redis.error_reply(name .. ' is of type ' .. kind .. ', which no release of ours has written')
      end
    end
  end
end
return found
