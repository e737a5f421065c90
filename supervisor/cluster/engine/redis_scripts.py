"""Holds the scripts that Redis runs as one step each, and the names of its keys.

`{corral}` puts all keys into one slot. A revision is the server's time in microseconds, or one more than the last where
that is greater: it grows even after a server lost the end of its file. A clock that went back counts on from the last revision, by an
offset that is kept: leases would else go on for as long. Leases end by a sorted set that each script and
each watch sweeps, and not by Redis' own expiry, whose notices a watch would miss while it reconnects.
"""

from typing import Any

PREFIX = "{corral}:"
KEYS, NAMES, ENDS, REVISION, CHANGES, AHEAD = (
    PREFIX + name for name in ("keys", "names", "ends", "revision", "changes", "ahead")
)

PENDING_MAX = 10_000
"""Number of taken tasks of a queue whose takers are looked at after the clock went back."""

CHANGES_MAX = 10_000
"""Number of changes that Redis keeps for watches that lost their connection; after more, a watch begins anew."""

MANY = ("results", "carried", "steps", "calls")
"""The first words of keys whose changes have a stream of their own: each task makes one, and no watch of nodes and agents reads them."""

BACK_US = 1_000_000
"""Microseconds by which the clock of the server may go back without an offset."""

INLINE_BYTES = 1024
"""Bytes of a value that is sent with its change; a larger one is fetched by each watch."""

_COMMON = f"""
local function clock_us()
  local now = redis.call('TIME')
  local at = now[1] * 1000000 + now[2]
  local ahead = tonumber(redis.call('GET', '{AHEAD}') or '0')
  local last = tonumber(redis.call('GET', '{REVISION}') or '0')
  if at + ahead + {BACK_US} < last then
    ahead = last - at
    redis.call('SET', '{AHEAD}', string.format('%.0f', ahead))
  end
  return at + ahead
end
local function next_revision()
  local revision = clock_us()
  local last = tonumber(redis.call('GET', '{REVISION}') or '0')
  if revision <= last then revision = last + 1 end
  local text = string.format('%.0f', revision)
  redis.call('SET', '{REVISION}', text)
  return text
end
local function changes_of(key)
  local word = string.match(key, '^[^/]*')
  for _, each in ipairs({{{", ".join(f"'{word}'" for word in MANY)}}}) do
    if word == each then return '{CHANGES}:' .. word end
  end
  return '{CHANGES}'
end
local function note(key, revision, value)
  local stream = changes_of(key)
  if value and #value <= {INLINE_BYTES} and stream == '{CHANGES}' then
    redis.call('XADD', stream, 'MAXLEN', '~', {CHANGES_MAX}, '*', 'k', key, 'r', revision, 'v', value)
  elseif value then
    redis.call('XADD', stream, 'MAXLEN', '~', {CHANGES_MAX}, '*', 'k', key, 'r', revision, 'f', '1')
  else
    redis.call('XADD', stream, 'MAXLEN', '~', {CHANGES_MAX}, '*', 'k', key, 'r', revision)
  end
end
local function remove(key)
  redis.call('HDEL', '{KEYS}', key)
  redis.call('ZREM', '{NAMES}', key)
  redis.call('ZREM', '{ENDS}', key)
  local revision = next_revision()
  note(key, revision, nil)
  return revision
end
local function now_ms()
  return math.floor(clock_us() / 1000)
end
local function sweep()
  local over = redis.call('ZRANGEBYSCORE', '{ENDS}', '-inf', now_ms(), 'LIMIT', 0, 1000)
  for _, key in ipairs(over) do remove(key) end
  return #over
end
local function present(key)
  local found = redis.call('HGET', '{KEYS}', key)
  if not found then return nil, nil end
  local at = string.find(found, ' ', 1, true)
  return string.sub(found, 1, at - 1), string.sub(found, at + 1)
end
"""

GET = (
    _COMMON
    + """
sweep()
local revision, value = present(ARGV[1])
if not revision then return false end
return {revision, value}
"""
)
"""KEY: returns {revision, value}, or nil."""

PUT = (
    _COMMON
    + f"""
sweep()
local revision = present(ARGV[1]) or '0'
if revision ~= ARGV[2] then return {{0, revision}} end
revision = next_revision()
redis.call('HSET', '{KEYS}', ARGV[1], revision .. ' ' .. ARGV[3])
redis.call('ZADD', '{NAMES}', 0, ARGV[1])
if ARGV[4] == '' then
  redis.call('ZREM', '{ENDS}', ARGV[1])
else
  redis.call('ZADD', '{ENDS}', now_ms() + tonumber(ARGV[4]) * 1000, ARGV[1])
end
note(ARGV[1], revision, ARGV[3])
return {{1, revision}}
"""
)
"""KEY REVISION VALUE SECONDS|"": returns {1, revision}, or {0, present revision}."""

DELETE = (
    _COMMON
    + """
sweep()
local revision = present(ARGV[1]) or '0'
if revision ~= ARGV[2] or revision == '0' then return {0, revision} end
return {1, remove(ARGV[1])}
"""
)
"""KEY REVISION: returns {1, revision}, or {0, present revision}."""

SNAPSHOT = (
    _COMMON
    + f"""
sweep()
local names = redis.call('ZRANGEBYLEX', '{NAMES}', '[' .. ARGV[1], '[' .. ARGV[1] .. '0')
local found = {{}}
for _, key in ipairs(names) do
  if key == ARGV[1] or string.sub(key, 1, #ARGV[1] + 1) == ARGV[1] .. '/' then
    local revision, value = present(key)
    table.insert(found, {{key, revision, value}})
  end
end
local last = redis.call('XREVRANGE', changes_of(ARGV[1]), '+', '-', 'COUNT', 1)
return {{last[1] and last[1][1] or '0-0', found}}
"""
)
"""PREFIX: returns {id of the last change, {{key, revision, value}, ...}}. "0" follows "/" in the order of bytes."""

SWEEP = (
    _COMMON
    + """
local count = sweep()
local first = redis.call('XRANGE', changes_of(ARGV[1]), '-', '+', 'COUNT', 1)
return {count, first[1] and first[1][1] or '0-0'}
"""
)
"""PREFIX: ends leases; returns {how many, id of the first change that is kept}."""

APPEND = """
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[3]) then return 0 end
redis.call('XADD', KEYS[1], '*', 'i', ARGV[1], 'p', ARGV[2], 'n', '0')
return 1
"""
"""QUEUE MARK: ID PAYLOAD WINDOW_MS: returns 1, or 0 for the same id again."""

RESTART = f"""
local ahead = redis.call('GET', '{AHEAD}') or '0'
if (redis.call('GET', KEYS[2]) or '0') == ahead then return 0 end
redis.call('SET', KEYS[2], ahead)
local pending = redis.call('XPENDING', KEYS[1], 'corral', '-', '+', {PENDING_MAX})
for _, each in ipairs(pending) do redis.call('XCLAIM', KEYS[1], 'corral', each[2], 0, each[1], 'JUSTID') end
return #pending
"""
"""QUEUE MARK: after the clock went back, counts the silence of all takers from now on: it would else not end before the clock is there again."""

SETTLE = """
if ARGV[1] == 'done' then
  redis.call('XACK', KEYS[1], 'corral', ARGV[2])
  return redis.call('XDEL', KEYS[1], ARGV[2])
end
local pending = redis.call('XPENDING', KEYS[1], 'corral', ARGV[2], ARGV[2], 1)
if not pending[1] or pending[1][2] ~= ARGV[3] then return 0 end
if ARGV[1] == 'working' then
  redis.call('XCLAIM', KEYS[1], 'corral', ARGV[3], 0, ARGV[2], 'JUSTID')
  return 1
end
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
redis.call('XACK', KEYS[1], 'corral', ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
if entry then
  local f = entry[2]
  redis.call('XADD', KEYS[1], '*', f[1], f[2], f[3], f[4], f[5], tostring(tonumber(f[6]) + pending[1][4]))
end
return 1
"""
"""QUEUE: OUTCOME ENTRY CONSUMER: returns 0 where the task is no longer this consumer's."""


def stream(queue: str) -> str:
    """Returns the name of the stream of a queue."""
    return f"{PREFIX}tasks:{queue}"


def changes(prefix: str) -> str:
    """Returns the name of the stream of changes of the keys below a prefix."""
    word = prefix.partition("/")[0]
    return f"{CHANGES}:{word}" if word in MANY else CHANGES


def restarted(queue: str) -> str:
    """Returns the name of the offset of the clock that the silence of the takers of a queue was counted by."""
    return f"{PREFIX}restarted:{queue}"


def entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Returns the entries of the one stream that was read, which the library has in one of two shapes."""
    # Any: the library gives one of two shapes
    streams: Any = getattr(answer, "values", None)
    return list(answer[0][1] if streams is None else next(iter(streams()))[0])


def position(entry: bytes) -> tuple[int, int]:
    """Returns the id of a change as numbers."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)
