//! What Redis does as one step. Each can be sent again without harm.

/// What each script begins with. An answer is a word, the time, and perhaps something with it. `record` is what the key holds now;
/// a record that is too long does not leave Redis.
pub const BEGINS: &str = "
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function record()
  local held = redis.call('HMGET', key, 'v', 't', 'a')
  if not held[1] then return {} end
  local data = 0
  if redis.call('HSTRLEN', key, 'd') <= 1048576 then data = redis.call('HGET', key, 'd') end
  return {held[1], math.max(0, now - (held[2] or now)), tonumber(held[3]) or 0, data}
end
";
pub const LOAD: &str = "return {'there', now, record()}";
/// The version that has to be there, the new one, the sealed bytes, and when that was put together, by Redis's clock as far as it is
/// known: it may have been on its way for long. One that was saved already is: its answer was lost.
pub const SAVE: &str = "
local held = redis.call('HGET', key, 'v') or ''
if held == ARGV[2] then return {'done', now} end
if held ~= ARGV[1] then return {'stale', now, record()} end
redis.call('HSET', key, 'v', ARGV[2], 'd', ARGV[3], 't', now, 'a', math.max(0, now - (tonumber(ARGV[4]) or now)))
return {'done', now}
";
/// The owner, for how long, whether a lapsed one may be taken. No lease has more left than it is long, except where the clock
/// was set back: it begins anew.
pub const TAKE: &str = "
local held = redis.call('HMGET', key, 'o', 'u', 'l')
if held[1] and held[1] ~= ARGV[1] then
  local long = tonumber(held[3]) or 0
  local left = (tonumber(held[2]) or 0) - now
  if left > long then
    left = long
    redis.call('HSET', key, 'u', now + long)
  end
  if left > 0 then return {'held', now, left} end
  if ARGV[3] ~= '1' then return {'lapsed', now} end
end
redis.call('HSET', key, 'o', ARGV[1], 'u', now + ARGV[2], 'l', ARGV[2])
return {'yes', now, record()}
";
pub const RELEASE: &str = "
if redis.call('HGET', key, 'o') == ARGV[1] then redis.call('HDEL', key, 'o', 'u', 'l') end
return {'done', now}
";
