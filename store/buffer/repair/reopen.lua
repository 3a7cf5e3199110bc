-- Take back once that a dead letter was dropped.
-- KEYS: the settled letters of the use case, how many by reason, what was taken back.
-- ARGV: id of the letter, the decision as it lies there, reason of the letter, the counter-move as JSON, how many to keep.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], ARGV[3], -1)
redis.call('RPUSH', KEYS[3], ARGV[4])
redis.call('LTRIM', KEYS[3], -ARGV[5], -1)
return 1
