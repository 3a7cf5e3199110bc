-- Note once that a dead letter was dealt with.
-- KEYS: the settled letters of the use case, how many by reason, replays that have begun.
-- ARGV: id of the letter, the decision as JSON, reason of the letter, how many letters it stands for.
for i, kind in ipairs({'hash', 'hash', 'hash'}) do
  local found = redis.call('TYPE', KEYS[i])['ok']
  if found ~= kind and found ~= 'none' then redis.call('RENAME', KEYS[i], KEYS[i] .. ':aside') end
end
redis.call('HDEL', KEYS[3], ARGV[1])
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[2], ARGV[3], ARGV[4])
return 1
