-- A lane's spending over a rolling window, in buckets with running sums. Redis runs this as one step, by its own clock.
--
-- KEYS[1]  hash: 'newest' bucket seen, 'calls' and 'usd' sums, 'audit_calls' and 'audit_usd' sums,
--          for each bucket b: 'c<b>', 'u<b>' (all) and 'ac<b>', 'au<b>' (audits alone),
--          'leases' ever granted, and 'hold', the second until which nothing is granted
-- KEYS[2]  hash of one lease: 'calls', 'usd', 'bucket', 'kind'; it expires
-- KEYS[3]  hash like the first: the part of it that the calling replica leased; it expires
-- ARGV     verb ('lease', 'settle' or 'used'), seconds in a bucket, buckets kept, then what the replica knows by itself:
--          calls and micro-dollars that it has leased and not given back in a day, the most leases it has seen counted,
--          what this clock should say by the replica's own (-1: it was never here); and then
--   lease:  kind, calls asked, micro-dollars asked, calls limit, micro-dollar limit (-1: none),
--           audit calls reserved, audit micro-dollars reserved, lease time to live in s
--   settle: calls unspent, micro-dollars unspent (below zero: spent more than leased)
--
-- Returns {calls granted, micro-dollars granted, calls used, micro-dollars used, leases ever granted, calls recounted,
--          seconds by this clock, 1 while nothing is granted}.
-- Each write is idempotent, because clients resend what timed out: a lease id is granted once and settled once.
--
-- Redis may have been emptied, restored from an older copy, or its clock set: then it counts less of a replica's calls
-- than the replica knows of. They are counted again, as of now, before anything is granted; and where anything says
-- that the ledger lost something, nothing is granted for a while, so that every replica can come and say so.
local spent, lease, own = KEYS[1], KEYS[2], KEYS[3]
local verb, bucket_s, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local known = { calls = tonumber(ARGV[4]), usd = tonumber(ARGV[5]), leases = tonumber(ARGV[6]), now_s = tonumber(ARGV[7]) }
local SUMS = { { 'c', 'calls' }, { 'u', 'usd' }, { 'ac', 'audit_calls' }, { 'au', 'audit_usd' } }
local HOLD_S, LEAP_S = 10, 60
local now_s = tonumber(redis.call('TIME')[1])
local now = math.floor(now_s / bucket_s)
local leapt = known.now_s >= 0 and now_s > known.now_s + LEAP_S

-- A ledger that is damaged in one place is begun anew as a whole by whoever finds it, and every replica counts again.
for _, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'hash' and found ~= 'none' then return redis.error_reply('DAMAGED ' .. key .. ' is of type ' .. found) end
end

local function number(key, field)
  local value = redis.call('HGET', key, field) or '0'
  return tonumber(value) or error('DAMAGED ' .. key .. ': ' .. field .. ' is ' .. string.sub(value, 1, 100))
end

local function add_to(key, bucket, kind, calls, usd)
  redis.call('HINCRBY', key, 'c' .. bucket, calls)
  redis.call('HINCRBY', key, 'u' .. bucket, usd)
  redis.call('HINCRBY', key, 'calls', calls)
  redis.call('HINCRBY', key, 'usd', usd)
  if kind == 'audit' then
    redis.call('HINCRBY', key, 'ac' .. bucket, calls)
    redis.call('HINCRBY', key, 'au' .. bucket, usd)
    redis.call('HINCRBY', key, 'audit_calls', calls)
    redis.call('HINCRBY', key, 'audit_usd', usd)
  end
end

local function add(bucket, kind, calls, usd)
  add_to(spent, bucket, kind, calls, usd)
  add_to(own, bucket, kind, calls, usd)
end

-- Forget what is out of the window, and return the bucket to spend in. A clock that is set back by a bucket spends in
-- the newest one. Where the newest is further ahead, or the clock leapt while the replica's own did not, some clock was
-- wrong: all that counts is then as of now, so that it counts for a day more and no longer.
local function roll(key)
  local newest = number(key, 'newest')
  if newest > now + 1 or (leapt and newest > 0) then
    local sums = {}
    for index, names in ipairs(SUMS) do
      sums[index] = number(key, names[2])
    end
    local leases, hold = number(key, 'leases'), number(key, 'hold')
    redis.call('DEL', key)
    for index, names in ipairs(SUMS) do
      redis.call('HSET', key, names[1] .. now, sums[index], names[2], sums[index])
    end
    redis.call('HSET', key, 'leases', leases, 'hold', hold)
    newest = now
  elseif newest > 0 and now - newest >= kept then
    local leases = number(key, 'leases')
    redis.call('DEL', key)
    redis.call('HSET', key, 'leases', leases)
  elseif newest > 0 and now > newest then
    for bucket = newest - kept + 1, now - kept do
      for _, names in ipairs(SUMS) do
        local amount = number(key, names[1] .. bucket)
        if amount ~= 0 then
          redis.call('HINCRBY', key, names[2], 0 - amount)
        end
        redis.call('HDEL', key, names[1] .. bucket)
      end
    end
  end
  newest = math.max(now, newest)
  if number(key, 'newest') ~= newest then  -- a beat that changes nothing writes nothing
    redis.call('HSET', key, 'newest', newest)
    if key == own then
      redis.call('EXPIRE', own, bucket_s * (kept + 2))
    end
  end
  return newest
end

local present = roll(spent)
roll(own)

if verb == 'settle' and redis.call('EXISTS', lease) == 1 then
  local bucket = number(lease, 'bucket')
  if bucket > now - kept then
    add(math.min(bucket, present), redis.call('HGET', lease, 'kind'), 0 - ARGV[8], 0 - ARGV[9])
  end
  redis.call('DEL', lease)
end

local function lost(knows, sum)
  return math.max(0, math.min(knows, knows - number(own, sum)))
end
local missing, missing_usd = lost(known.calls, 'calls'), lost(known.usd, 'usd')
if missing > 0 or missing_usd > 0 then
  add(present, 'escalation', missing, missing_usd)
end
local went_back = number(spent, 'leases') < known.leases
if went_back then
  redis.call('HSET', spent, 'leases', known.leases)
end
if missing > 0 or missing_usd > 0 or went_back or leapt then
  redis.call('HSET', spent, 'hold', now_s + HOLD_S)
end
local hold = number(spent, 'hold')
local held = now_s < hold and hold <= now_s + HOLD_S  -- a clock that was set back holds nobody for longer

local calls_granted, usd_granted = 0, 0
if verb == 'lease' then
  if redis.call('EXISTS', lease) == 1 then
    calls_granted, usd_granted = number(lease, 'calls'), number(lease, 'usd')
  else
    local kind = ARGV[8]
    local function room(asked, limit, reserved, sum, audits)
      if limit < 0 then return asked end
      local left = limit - number(spent, sum)
      if kind ~= 'audit' then
        left = left - math.max(0, reserved - number(spent, audits))
      end
      return math.max(0, math.min(asked, left))
    end
    calls_granted = room(tonumber(ARGV[9]), tonumber(ARGV[11]), tonumber(ARGV[13]), 'calls', 'audit_calls')
    usd_granted = room(tonumber(ARGV[10]), tonumber(ARGV[12]), tonumber(ARGV[14]), 'usd', 'audit_usd')
    if held or calls_granted == 0 or (usd_granted == 0 and tonumber(ARGV[10]) > 0) then
      calls_granted, usd_granted = 0, 0
    else
      add(present, kind, calls_granted, usd_granted)
      redis.call('HINCRBY', spent, 'leases', 1)
    end
    redis.call('HSET', lease, 'calls', calls_granted, 'usd', usd_granted, 'bucket', present, 'kind', kind)
    redis.call('EXPIRE', lease, tonumber(ARGV[15]))
  end
end
return {
  calls_granted, usd_granted, number(spent, 'calls'), number(spent, 'usd'), number(spent, 'leases'), missing,
  now_s, held and 1 or 0,
}
