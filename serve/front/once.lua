-- The answers that were given under one Idempotency-Key. Redis runs this as one step, on its own clock.
--
-- KEYS[1]  hash of one key: 'request' (digest of its body), 'answers', 'complete', 'entry' (its own in the list), and
--          while somebody is at work on it 'owner' and 'until' (ms)
-- KEYS[2]  list of the lane's kept answers, oldest first: "<key> <bytes> <ms>"
-- KEYS[3]  the sum of their bytes
-- ARGV     verb, owner, digest of the body, and then
--   claim: hold in ms           -> {'ours' | 'busy' | 'kept' | 'other', answers so far, ms until a busy one may be claimed}
--   renew: hold in ms
--   keep:  answers, '1' where none is missing, ms to keep them, most bytes of the lane -> {'done' | 'lost'}
--   release
--
-- Each verb may be sent twice, because clients resend what timed out.
local record, order, total = KEYS[1], KEYS[2], KEYS[3]
local verb, owner, request = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local found = redis.call('HMGET', record, 'request', 'answers', 'complete', 'owner', 'until')
local ours = found[4] and found[4] == owner

local function trim(sum, keep_ms, most)
  for _ = 1, 100 do
    local oldest = redis.call('LINDEX', order, 0)
    if not oldest then break end
    local name, bytes, at = string.match(oldest, '^(.+) (%d+) (%d+)$')
    local expired = tonumber(at) <= now - keep_ms
    if sum <= most and not expired then break end
    redis.call('LPOP', order)
    local current = redis.call('HGET', name, 'entry')
    if not expired and (not current or current == oldest) then redis.call('DEL', name) end
    sum = redis.call('DECRBY', total, bytes)
  end
end

if verb == 'claim' then
  if found[1] and found[1] ~= request then return { 'other', '', 0 } end
  if found[3] then return { 'kept', found[2], 0 } end
  if found[4] and not ours and tonumber(found[5]) > now then return { 'busy', '', tonumber(found[5]) - now } end
  redis.call('HSET', record, 'request', request, 'owner', owner, 'until', string.format('%d', now + ARGV[4]))
  if not found[2] then redis.call('PEXPIRE', record, ARGV[4]) end
  return { 'ours', found[2] or '', 0 }
elseif verb == 'renew' and ours then
  redis.call('HSET', record, 'until', string.format('%d', now + ARGV[4]))
  if not found[2] then redis.call('PEXPIRE', record, ARGV[4]) end
elseif verb == 'keep' and (ours or not found[1]) then
  redis.call('HSET', record, 'request', request, 'answers', ARGV[4])
  if ARGV[5] == '1' then redis.call('HSET', record, 'complete', '1') end
  redis.call('HDEL', record, 'owner', 'until')
  redis.call('PEXPIRE', record, ARGV[6])
  local before = redis.call('HGET', record, 'entry')
  if before and redis.call('LREM', order, -1, before) > 0 then  -- some answers were kept before all were
    redis.call('DECRBY', total, string.match(before, ' (%d+) %d+$'))
  end
  local bytes = string.len(ARGV[4]) + string.len(record) * 2 + 200
  local entry = record .. ' ' .. bytes .. ' ' .. string.format('%d', now)
  redis.call('HSET', record, 'entry', entry)
  redis.call('RPUSH', order, entry)
  redis.call('PEXPIRE', order, 2 * ARGV[6])
  local sum = redis.call('INCRBY', total, bytes)
  redis.call('PEXPIRE', total, 2 * ARGV[6])
  trim(sum, tonumber(ARGV[6]), tonumber(ARGV[7]))
elseif verb == 'keep' and found[2] ~= ARGV[4] then
  return { 'lost', '', 0 }
elseif verb == 'release' and ours then
  if found[2] then
    redis.call('HDEL', record, 'owner', 'until')
  else
    redis.call('DEL', record)
  end
end
return { 'done', '', 0 }
