-- Give what was staged its names, in one step, or nothing where something lies there already.
-- ARGV: what the names of what is staged begin with, nothing to put nothing; patterns of the keys' names, as msgpack; what becomes of keys that are
-- there: 'refuse', 'drop', or what they are renamed to begin with; how long a key must live on to count, in milliseconds.
-- Returns how many were put, or -1 and the name of one that lies there.
local staged, patterns, mode = ARGV[1], cmsgpack.unpack(ARGV[2]), ARGV[3]
local present = {}
for _, pattern in ipairs(patterns) do
  for _, name in ipairs(names_like(pattern)) do
    local ttl = redis.call('PTTL', name)
    if ttl < 0 or ttl >= tonumber(ARGV[4]) then present[#present + 1] = name end
  end
end
if mode == 'refuse' and #present > 0 then return {-1, present[1]} end
for _, name in ipairs(present) do
  if mode == 'drop' then redis.call('DEL', name) else redis.call('RENAME', name, mode .. name) end
end
local names = staged ~= '' and names_like(staged .. '*') or {}
for _, name in ipairs(names) do redis.call('RENAME', name, string.sub(name, #staged + 1)) end
return {#names, ''}
