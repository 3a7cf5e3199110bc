-- What the scripts beside this one begin with: the names of the keys that are like a pattern.
-- SCAN and not KEYS, which users with few rights may not call; within one step it misses nothing, and may say a name twice.
local function names_like(pattern)
  local names, known, cursor = {}, {}, '0'
  repeat
    local found = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = found[1]
    for _, name in ipairs(found[2]) do
      if not known[name] then
        known[name] = true
        names[#names + 1] = name
      end
    end
  until cursor == '0'
  return names
end
