"""The registry's Lua scripts (Redis 6.2). Time is Redis' own, so that no two machines' clocks are compared.

Cost: all but `SNAPSHOT`, `GATEWAYS` and `EXPIRE` are O(log n) in the number of registrations and move one record (`PUT_NODE`
also removes what it forgets); `EXPIRE` is O(log n + expired); `SNAPSHOT` and `GATEWAYS` are O(n) and move every record (about
0.6 KB each).
"""

_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# The counter follows the clock, so that it never falls back when Redis comes back empty.
# KEYS: counter. Returns the number as a string (Lua numbers lose what lies above 2^53).
NEXT_INCARNATION = (
    _NOW
    + """
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local value = string.format('%.0f', math.max(last + 1, now))
redis.call('SET', KEYS[1], value)
return value
"""
)

# KEYS: workers, leases, log. ARGV: id, incarnation, record, lease ms, log length.
# Returns the incarnation that is in the way, or '' where the record was written.
REGISTER = (
    _NOW
    + """
local present = redis.call('HGET', KEYS[1], ARGV[1])
if present then
  local other = cjson.decode(present)['incarnation']
  if other > tonumber(ARGV[2]) then return string.format('%.0f', other) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[4]), ARGV[1])
if present ~= ARGV[3] then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'op', 'put', 'id', ARGV[1], 'record', ARGV[3])
end
return ''
"""
)

# KEYS: workers, leases. ARGV: id, incarnation, lease ms.
RENEW = (
    _NOW
    + """
local present = redis.call('HGET', KEYS[1], ARGV[1])
local record = present and cjson.decode(present)
if not record or record['incarnation'] ~= tonumber(ARGV[2]) then return '' end
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
return record['state']
"""
)

# Writes a record only over the one that the caller read.
# KEYS: workers, log. ARGV: id, old record, new record, log length.
REPLACE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'op', 'put', 'id', ARGV[1], 'record', ARGV[3])
return 1
"""

# KEYS: workers, leases, log. ARGV: id, incarnation, log length.
DEREGISTER = """
local present = redis.call('HGET', KEYS[1], ARGV[1])
if not present or cjson.decode(present)['incarnation'] ~= tonumber(ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'op', 'del', 'id', ARGV[1])
return 1
"""

# KEYS: workers, worker leases, log, gateways, gateway leases, swept. ARGV: log length, gap ms, grace ms.
EXPIRE = (
    _NOW
    + """
local swept = tonumber(redis.call('GET', KEYS[6]) or '0')
redis.call('SET', KEYS[6], string.format('%.0f', now))
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)
if now - swept > tonumber(ARGV[2]) then
  for _, id in ipairs(gone) do redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), id) end
  return {}
end
for _, id in ipairs(gone) do
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[1], '*', 'op', 'expire', 'id', id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('HDEL', KEYS[4], id)
  redis.call('ZREM', KEYS[5], id)
end
return gone
"""
)

# KEYS: workers, leases, log. Returns {now ms, cursor, {id, record, ...}, {id, end ms, ...}}.
SNAPSHOT = (
    _NOW
    + """
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
return {
  string.format('%.0f', now), last[1] and last[1][1] or '0-0', redis.call('HGETALL', KEYS[1]),
  redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'),
}
"""
)

# KEYS: gateways, leases. ARGV: id, record, lease ms.
PUT_GATEWAY = (
    _NOW
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
return 1
"""
)

# The keys of nodes take `DROP_GATEWAY` and `GATEWAYS` too.
# KEYS: nodes, leases. ARGV: id, record, lease ms, how long one that does not renew is kept, ms.
PUT_NODE = (
    _NOW
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[4]), 'LIMIT', 0, 100)) do
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
return 1
"""
)

# KEYS: gateways, leases. ARGV: id.
DROP_GATEWAY = """
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""

# KEYS: gateways, leases. Returns {now ms, {id, record, ...}, {id, end ms, ...}}.
GATEWAYS = (
    _NOW
    + """
return {
  string.format('%.0f', now), redis.call('HGETALL', KEYS[1]), redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'),
}
"""
)
