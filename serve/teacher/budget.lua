-- A lane's spending over a rolling window, in buckets with running sums. Redis runs this as one step.
--
-- KEYS[1]  hash: 'newest' bucket seen, 'calls' and 'usd' sums, 'audit_calls' and 'audit_usd' sums,
--          and for each bucket b: 'c<b>', 'u<b>' (all) and 'ac<b>', 'au<b>' (audits alone)
-- KEYS[2]  hash of one lease: 'calls', 'usd', 'bucket', 'kind'; it expires
-- ARGV     verb ('lease', 'settle' or 'used'), bucket now, buckets kept, and then
--   lease:  kind, calls asked, micro-dollars asked, calls limit, micro-dollar limit (-1: none),
--           audit calls reserved, audit micro-dollars reserved, lease time to live in s
--   settle: calls unspent, micro-dollars unspent (below zero: spent more than leased)
--
-- Returns {calls granted, micro-dollars granted, calls used, micro-dollars used}.
-- Each write is idempotent, because clients resend what timed out: a lease id is granted once and settled once.
local spent, lease = KEYS[1], KEYS[2]
local verb, now, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function number(key, field)
  return tonumber(redis.call('HGET', key, field) or '0')
end

local function add(bucket, kind, calls, usd)
  redis.call('HINCRBY', spent, 'c' .. bucket, calls)
  redis.call('HINCRBY', spent, 'u' .. bucket, usd)
  redis.call('HINCRBY', spent, 'calls', calls)
  redis.call('HINCRBY', spent, 'usd', usd)
  if kind == 'audit' then
    redis.call('HINCRBY', spent, 'ac' .. bucket, calls)
    redis.call('HINCRBY', spent, 'au' .. bucket, usd)
    redis.call('HINCRBY', spent, 'audit_calls', calls)
    redis.call('HINCRBY', spent, 'audit_usd', usd)
  end
end

-- Time never runs backwards here: a replica whose clock is behind spends in the newest bucket.
local newest = number(spent, 'newest')
if newest == 0 then newest = now end
if now > newest and now - newest >= kept then
  redis.call('DEL', spent)
elseif now > newest then
  for bucket = newest - kept + 1, now - kept do
    local pairs_of = { { 'c', 'calls' }, { 'u', 'usd' }, { 'ac', 'audit_calls' }, { 'au', 'audit_usd' } }
    for _, names in ipairs(pairs_of) do
      local amount = number(spent, names[1] .. bucket)
      if amount ~= 0 then
        redis.call('HINCRBY', spent, names[2], 0 - amount)
      end
      redis.call('HDEL', spent, names[1] .. bucket)
    end
  end
end
now = math.max(now, newest)
redis.call('HSET', spent, 'newest', now)

local calls_granted, usd_granted = 0, 0
if verb == 'lease' then
  if redis.call('EXISTS', lease) == 1 then
    calls_granted, usd_granted = number(lease, 'calls'), number(lease, 'usd')
  else
    local kind = ARGV[4]
    local function room(asked, limit, reserved, sum, audits)
      if limit < 0 then return asked end
      local left = limit - number(spent, sum)
      if kind ~= 'audit' then
        left = left - math.max(0, reserved - number(spent, audits))
      end
      return math.max(0, math.min(asked, left))
    end
    calls_granted = room(tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[9]), 'calls', 'audit_calls')
    usd_granted = room(tonumber(ARGV[6]), tonumber(ARGV[8]), tonumber(ARGV[10]), 'usd', 'audit_usd')
    if calls_granted == 0 or (usd_granted == 0 and tonumber(ARGV[6]) > 0) then
      calls_granted, usd_granted = 0, 0
    else
      add(now, kind, calls_granted, usd_granted)
    end
    redis.call('HSET', lease, 'calls', calls_granted, 'usd', usd_granted, 'bucket', now, 'kind', kind)
    redis.call('EXPIRE', lease, tonumber(ARGV[11]))
  end
elseif verb == 'settle' and redis.call('EXISTS', lease) == 1 then
  local bucket = number(lease, 'bucket')
  if bucket > now - kept then
    add(bucket, redis.call('HGET', lease, 'kind'), 0 - ARGV[4], 0 - ARGV[5])
  end
  redis.call('DEL', lease)
end
return { calls_granted, usd_granted, number(spent, 'calls'), number(spent, 'usd') }
