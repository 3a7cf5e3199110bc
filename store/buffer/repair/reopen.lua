-- Take the note of a dead letter away, once.
-- KEYS: the settled letters of the use case, how many by reason.
-- ARGV: id of the letter, the note as it lies there, reason of the letter.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], ARGV[3], -1)
return 1
