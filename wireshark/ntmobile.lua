-- NTMobile for Wireshark and tshark: the header of every datagram; with a run's keys, what control messages say and the packets inside
-- data packets.
--
--   wireshark -X lua_script:wireshark/ntmobile.lua -o ntmobile.keys:reports/runs/X/keys.txt reports/runs/X/run.pcapng
--
-- `harness run --keylog` writes keys.txt: the keys that nodes share beforehand. The keys that coordinators and terminals hand out are in
-- the messages under those, so they are found while the capture is read from its beginning.
--
-- Lua has no cryptography of its own here: AES-128, SHA-256, HMAC and HKDF are below. A control message is believed only if its MAC is right.

-- Bit operations, whatever the version of Lua.
local band, bor, bxor, bnot, lshift, rshift, ror
do
  local bits = bit32 or bit
  if bits then
    band, bor, bxor, bnot = bits.band, bits.bor, bits.bxor, bits.bnot
    lshift, rshift, ror = bits.lshift, bits.rshift, bits.rrotate or bits.ror
  else
    -- Lua 5.3 and later have operators, which older ones could not even read.
    band, bor, bxor = load("return function(a, b) return a & b end")(), load("return function(a, b) return a | b end")(), load("return function(a, b) return a ~ b end")()
    bnot = load("return function(a) return ~a & 0xffffffff end")()
    lshift, rshift = load("return function(a, n) return a << n & 0xffffffff end")(), load("return function(a, n) return (a & 0xffffffff) >> n end")()
    ror = function(a, n) return bor(rshift(a, n), lshift(a, 32 - n)) end
  end
end
local byte, char, sub, rep = string.byte, string.char, string.sub, string.rep
local unpack = table.unpack or unpack

local function xor_text(a, b)
  local out = {}
  for n = 1, math.min(#a, #b) do out[n] = char(bxor(byte(a, n), byte(b, n))) end
  return table.concat(out)
end
local function word(number)
  return char(band(rshift(number, 24), 255), band(rshift(number, 16), 255), band(rshift(number, 8), 255), band(number, 255))
end
local function unhex(text) return (text:gsub("%x%x", function(pair) return char(tonumber(pair, 16)) end)) end
local function hex(text) return (text:gsub(".", function(c) return string.format("%02x", byte(c)) end)) end

-- SHA-256 (FIPS 180-4).
local K = {}
do
  local function fraction(x) return math.floor((x - math.floor(x)) * 4294967296) end
  local n, candidate = 0, 2
  while n < 64 do
    local prime = true
    for divisor = 2, math.floor(math.sqrt(candidate)) do if candidate % divisor == 0 then prime = false break end end
    if prime then n = n + 1; K[n] = fraction(candidate ^ (1 / 3)) end
    candidate = candidate + 1
  end
end
local function sha256(text)
  local h = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 }
  local padded = text .. "\128" .. rep("\0", (55 - #text) % 64) .. word(0) .. word(#text * 8)
  local w = {}
  for at = 1, #padded, 64 do
    for n = 1, 16 do
      local a, b, c, d = byte(padded, at + n * 4 - 4, at + n * 4 - 1)
      w[n] = ((a * 256 + b) * 256 + c) * 256 + d
    end
    for n = 17, 64 do
      local x, y = w[n - 15], w[n - 2]
      local s0 = bxor(bxor(ror(x, 7), ror(x, 18)), rshift(x, 3))
      local s1 = bxor(bxor(ror(y, 17), ror(y, 19)), rshift(y, 10))
      w[n] = (w[n - 16] + s0 % 4294967296 + w[n - 7] + s1 % 4294967296) % 4294967296
    end
    local a, b, c, d, e, f, g, i = h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8]
    for n = 1, 64 do
      local s1 = bxor(bxor(ror(e, 6), ror(e, 11)), ror(e, 25)) % 4294967296
      local choice = bxor(band(e, f), band(bnot(e), g)) % 4294967296
      local one = (i + s1 + choice + K[n] + w[n]) % 4294967296
      local s0 = bxor(bxor(ror(a, 2), ror(a, 13)), ror(a, 22)) % 4294967296
      local major = bxor(bxor(band(a, b), band(a, c)), band(b, c)) % 4294967296
      i, g, f, e, d, c, b, a = g, f, e, (d + one) % 4294967296, c, b, a, (one + s0 + major) % 4294967296
    end
    for n, value in ipairs({ a, b, c, d, e, f, g, i }) do h[n] = (h[n] + value) % 4294967296 end
  end
  local out = {}
  for n = 1, 8 do out[n] = word(h[n]) end
  return table.concat(out)
end
local function hmac(key, text)
  if #key > 64 then key = sha256(key) end
  key = key .. rep("\0", 64 - #key)
  return sha256(xor_text(key, rep("\92", 64)) .. sha256(xor_text(key, rep("\54", 64)) .. text))
end
-- A function of texts and numbers whose results are kept: the same few keys serve all packets of a path.
local function kept(work)
  local results = {}
  return function(...)
    local mark = table.concat({ ... }, "|")
    if not results[mark] then results[mark] = work(...) end
    return results[mark]
  end
end
-- HKDF (RFC 5869) as ntm_protocol's keys use it: `length` bytes for a purpose, bound to a context of two parts.
local derive = kept(function(shared, purpose, length, ...)
  local info = char(purpose)
  for _, part in ipairs({ ... }) do info = info .. char(#part) .. part end
  local prk, out, block, n = hmac("NTMobile 1", shared), "", "", 1
  while #out < length do
    block = hmac(prk, block .. info .. char(n))
    out, n = out .. block, n + 1
  end
  return sub(out, 1, length)
end)

-- AES-128 (FIPS 197).
local SBOX, INVERSE = {}, {}
local function times(a, b)
  local out = 0
  while b > 0 do
    if b % 2 == 1 then out = bxor(out, a) end
    a = a * 2
    if a > 255 then a = bxor(a, 0x11b) end
    b = math.floor(b / 2)
  end
  return out
end
do
  local p, q = 1, 1
  repeat
    p = times(p, 3)
    q = times(q, 0xf6)
    local x = q
    for n = 1, 4 do x = bxor(x, bxor(lshift(q, n) % 256, rshift(q, 8 - n))) end
    SBOX[p] = bxor(x, 0x63)
  until p == 1
  SBOX[0] = 0x63
  for value, image in pairs(SBOX) do INVERSE[image] = value end
end
local function products(factor)
  local out = {}
  for n = 0, 255 do out[n] = times(n, factor) end
  return out
end
local X2, X3, X9, XB, XD, XE = products(2), products(3), products(9), products(11), products(13), products(14)
local schedule = kept(function(key)
  local w = { byte(key, 1, 16) }
  local round = 1
  for n = 17, 176 do
    local before, at = w[n - 4], (n - 1) % 16
    if at < 4 then
      -- The first word of a round: rotated, substituted, and the round's constant.
      before = SBOX[w[n - at - 4 + (at + 1) % 4]]
      if at == 0 then before = bxor(before, round); round = times(round, 2) end
    end
    w[n] = bxor(w[n - 16], before)
  end
  return w
end)
local function encrypt_block(w, block)
  local s = { byte(block, 1, 16) }
  for n = 1, 16 do s[n] = bxor(s[n], w[n]) end
  for round = 1, 10 do
    local t = {}
    for n = 0, 15 do t[n + 1] = SBOX[s[(n + 4 * (n % 4)) % 16 + 1]] end
    if round < 10 then
      for c = 1, 13, 4 do
        local a, b, d, e = t[c], t[c + 1], t[c + 2], t[c + 3]
        t[c], t[c + 1] = bxor(bxor(X2[a], X3[b]), bxor(d, e)), bxor(bxor(a, X2[b]), bxor(X3[d], e))
        t[c + 2], t[c + 3] = bxor(bxor(a, b), bxor(X2[d], X3[e])), bxor(bxor(X3[a], b), bxor(d, X2[e]))
      end
    end
    for n = 1, 16 do s[n] = bxor(t[n], w[round * 16 + n]) end
  end
  return char(unpack(s))
end
local function decrypt_block(w, block)
  local s = { byte(block, 1, 16) }
  for n = 1, 16 do s[n] = bxor(s[n], w[160 + n]) end
  for round = 9, 0, -1 do
    local t = {}
    for n = 0, 15 do t[n + 1] = bxor(INVERSE[s[(n - 4 * (n % 4)) % 16 + 1]], w[round * 16 + n + 1]) end
    if round > 0 then
      for c = 1, 13, 4 do
        local a, b, d, e = t[c], t[c + 1], t[c + 2], t[c + 3]
        t[c], t[c + 1] = bxor(bxor(XE[a], XB[b]), bxor(XD[d], X9[e])), bxor(bxor(X9[a], XE[b]), bxor(XB[d], XD[e]))
        t[c + 2], t[c + 3] = bxor(bxor(XD[a], X9[b]), bxor(XE[d], XB[e])), bxor(bxor(XB[a], XD[b]), bxor(X9[d], XE[e]))
      end
    end
    s = t
  end
  return char(unpack(s))
end
-- CFB with whole blocks fed back, CBC, and the counter mode of GCM, whose tag is not looked at.
local function cfb(key, iv, text)
  local w, out = schedule(key), {}
  for at = 1, #text, 16 do
    local part = sub(text, at, at + 15)
    out[#out + 1] = xor_text(part, encrypt_block(w, iv))
    iv = part
  end
  return table.concat(out)
end
local function cbc(key, iv, text)
  local w, out = schedule(key), {}
  for at = 1, #text - 15, 16 do
    local part = sub(text, at, at + 15)
    out[#out + 1] = xor_text(decrypt_block(w, part), iv)
    iv = part
  end
  return table.concat(out)
end
local function gcm(key, nonce, text)
  local w, out = schedule(key), {}
  for at = 1, #text, 16 do out[#out + 1] = xor_text(sub(text, at, at + 15), encrypt_block(w, nonce .. word((at - 1) / 16 + 2))) end
  return table.concat(out)
end

-- The wire format.
local HEADER, IV, MAC = 32, 16, 16
local KINDS = {
  [0x01] = "Registration Request", [0x02] = "Registration Response", [0x03] = "Keep-alive", [0x04] = "Keep-alive Answer",
  [0x10] = "Direction Request", [0x11] = "Direction Refusal", [0x12] = "Information Request", [0x13] = "Information Response",
  [0x14] = "Relay Direction", [0x15] = "Relay Response", [0x16] = "Route Direction", [0x17] = "Route Response",
  [0x20] = "Tunnel Request", [0x21] = "Tunnel Response", [0x22] = "Path Keep-alive", [0x23] = "Path Keep-alive Answer",
  [0x30] = "Data", [0x7f] = "Error",
}
-- Those whose header holds a Path ID; the others' holds the sender's Node ID.
local OF_PATH = { [0x20] = true, [0x21] = true, [0x22] = true, [0x23] = true, [0x30] = true }
local CONTROL, TUNNEL, LEG, DATA = 1, 2, 3, 4

-- Bodies: name and type of each field, in their order. A type is a name, or a table: { list = T }, { maybe = T }, { one = {…} } for a tagged
-- choice, or a list of fields.
local RTTS = { list = { { "relay", "id" }, { "micros", "u32" } } }
local RELAYS = { list = { { "relay", "id" }, { "address", "socket" }, { "key", "key" } } }
local ROLE = { one = { [1] = "initiator", [2] = "responder" } }
local TERMINAL = { { "node", "id" }, { "life", "u32" }, { "vip", "ip4" }, { "addresses", { list = "socket" } }, { "seen", "socket" }, { "rtts", RTTS } }
local SUITE = { one = { [0] = "none", [1] = "aes-128-cbc", [2] = "aes-128-gcm" } }
local BODIES = {
  [0x01] = { { "request", "u64" }, { "fqdn", "name" }, { "kind", { one = { [1] = "terminal", [2] = "relay", [3] = "coordinator" } } }, { "life", "u32" }, { "addresses", { list = "socket" } }, { "rtts", RTTS }, { "vips", { maybe = "range" } } },
  [0x02] = { { "request", "u64" }, { "vip", { maybe = "ip4" } }, { "seen", "socket" }, { "keep_alive", "ms" }, { "relays", RELAYS }, { "vips", { maybe = "range" } } },
  [0x03] = { { "request", "u64" }, { "load", { maybe = "u16" } }, { "rtts", RTTS } },
  [0x04] = { { "request", "u64" }, { "seen", "socket" }, { "load", "u16" }, { "relays", RELAYS } },
  [0x10] = { { "request", "u64" }, { "fqdn", "name" }, { "renewal", { maybe = { { "path", "id" }, { "role", ROLE }, { "epoch", "u8" }, { "peer_vip", "ip4" }, { "keep_relay", { maybe = "id" } } } } }, { "avoid", { maybe = "id" } } },
  [0x11] = { { "request", "u64" }, { "error", { one = { [3] = "NxDomain", [4] = "NoData", [2] = "ServFail", [5] = "Refused" } } } },
  [0x12] = { { "request", "u64" }, { "fqdn", "name" } },
  [0x13] = { { "request", "u64" }, { "terminal", { maybe = TERMINAL } }, { "known", "bool" } },
  [0x14] = { { "request", "u64" }, { "path", "id" }, { "epoch", "u8" }, { "order", { one = {
    [1] = { "RS-S", { { "initiator_key", "key" }, { "responder_key", "key" }, { "initiator", "ip4" }, { "responder", "ip4" } } },
    [2] = { "RS-N", { { "temp_key", "key" }, { "terminal", "ip4" }, { "general", "ip4" }, { "real", "ip" }, { "suite", SUITE } } } } } } },
  [0x15] = { { "request", "u64" }, { "answer", { one = { [1] = "Ready", [2] = "Full", [3] = "Conflict", [4] = "CannotTranslate" } } } },
  [0x16] = { { "request", "u64" }, { "answers", { maybe = "u64" } }, { "target", "id" }, { "life", "u32" }, { "seen", "socket" }, { "path", "id" }, { "epoch", "u8" }, { "role", ROLE }, { "peer", "name" }, { "peer_vip", "ip4" },
    { "path_key", { maybe = "key" } }, { "suite", SUITE }, { "route", { one = {
      [1] = { "Direct", { { "addresses", { list = "socket" } }, { "start", "bool" } } },
      [2] = { "Relayed", { { "relay", "id" }, { "address", "socket" }, { "mode", { one = { [1] = "RS-S", [2] = "RS-N" } } }, { "temp_key", "key" }, { "optimise", { list = "socket" } } } } } } } },
  [0x17] = { { "request", "u64" }, { "accepted", "bool" } },
  [0x20] = { { "request", "u64" }, { "moved", "bool" }, { "common_key", { maybe = "key" } } },
  [0x21] = { { "request", "u64" }, { "seen", "socket" }, { "peer_ready", "bool" } },
  [0x22] = { { "request", "u64" } },
  [0x23] = { { "request", "u64" }, { "seen", "socket" } },
  [0x7f] = { { "sequence", "u64" }, { "code", { one = { [1] = "NotRegistered", [2] = { "Stale", { { "floor", "u64" } } }, [3] = { "Overlap", { { "vips", "range" } } } } } } },
}

local ntm = Proto("ntmobile", "NTMobile")
local f = {
  version = ProtoField.uint8("ntmobile.version", "Version"),
  kind = ProtoField.uint8("ntmobile.type", "Type", base.HEX, KINDS),
  flags = ProtoField.uint8("ntmobile.flags", "Flags", base.HEX),
  encrypted = ProtoField.bool("ntmobile.flags.encrypted", "Encrypted", 8, nil, 0x01),
  responder = ProtoField.bool("ntmobile.flags.responder", "From the path's responder", 8, nil, 0x02),
  leg = ProtoField.bool("ntmobile.flags.leg", "Between an end and the relay", 8, nil, 0x04),
  suite = ProtoField.uint8("ntmobile.suite", "Suite", base.DEC, { [0] = "none", [1] = "AES-128", [2] = "AES-128-GCM" }, 0x0f),
  epoch = ProtoField.uint8("ntmobile.epoch", "Key epoch", base.DEC, nil, 0xf0),
  length = ProtoField.uint16("ntmobile.length", "Length of the body"),
  reserved = ProtoField.uint16("ntmobile.reserved", "Reserved", base.HEX),
  sequence = ProtoField.uint64("ntmobile.seq", "Sequence number"),
  path = ProtoField.bytes("ntmobile.path", "Path ID"),
  node = ProtoField.bytes("ntmobile.node", "Node ID of the sender"),
  iv = ProtoField.bytes("ntmobile.iv", "IV"),
  body = ProtoField.bytes("ntmobile.body", "Body, encrypted"),
  mac = ProtoField.bytes("ntmobile.mac", "MAC"),
  field = ProtoField.string("ntmobile.field", "Field"),
}
ntm.fields = f
local warn = {
  cut = ProtoExpert.new("ntmobile.cut", "The capture holds only the beginning of this datagram; what is missing of the packet inside is shown as zeros", expert.group.UNDECODED, expert.severity.NOTE),
  unopened = ProtoExpert.new("ntmobile.unopened", "No known key opens this message", expert.group.DECRYPTION, expert.severity.NOTE),
  malformed = ProtoExpert.new("ntmobile.malformed", "The body does not read as its type says", expert.group.MALFORMED, expert.severity.WARN),
}
ntm.experts = { warn.cut, warn.unopened, warn.malformed }
ntm.prefs.keys = Pref.string("Key file", "", "keys.txt of a run that was made with --keylog")
ntm.prefs.inside = Pref.bool("Show packets inside data packets", true, "Takes much of the time that a large capture needs")
ntm.prefs.port = Pref.uint("UDP port", 4330, "Where NTMobile's nodes listen")

-- Keys, as far as they are known: shared ones by sender, those of paths by path and epoch.
local shared, paths, names, opened, loaded
local function share(a, b, key)
  for _, pair in ipairs({ { a, b }, { b, a } }) do
    shared[pair[1]] = shared[pair[1]] or {}
    shared[pair[1]][hex(pair[2] .. key)] = { from = pair[1], to = pair[2], key = key }
  end
end
local function learn(path, epoch, key)
  local at = path .. char(epoch)
  paths[at] = paths[at] or {}
  paths[at][hex(key)] = key
end
function ntm.init()
  shared, paths, names, opened, loaded = {}, {}, {}, {}, nil
end
local function load_keys()
  if loaded == ntm.prefs.keys then return end
  loaded = ntm.prefs.keys
  if loaded == "" then return end
  local file = io.open(loaded, "r")
  if not file then return end
  -- Lines: two nodes' IDs, their key, and their names; all but the names in hexadecimal.
  for line in file:lines() do
    local a, b, key, first, second = line:match("^(%x+) (%x+) (%x+) (%S+) (%S+)")
    if a and #a == 32 and #b == 32 and #key == 64 then
      share(unhex(a), unhex(b), unhex(key))
      names[unhex(a)], names[unhex(b)] = first, second
    end
  end
  file:close()
end

-- The body of a control message under `key`, if its MAC is right.
local function open_control(datagram, key, purpose, one, other)
  local material = derive(key, purpose, 48, one, other)
  if sub(hmac(sub(material, 17), sub(datagram, 1, -MAC - 1)), 1, MAC) ~= sub(datagram, -MAC) then return nil end
  return cfb(sub(material, 1, 16), sub(datagram, HEADER + 1, HEADER + IV), sub(datagram, HEADER + IV + 1, -MAC - 1))
end
-- Its body under any key that may be its own; and who it is for, where that is told.
local function try_control(datagram, kind, flags, epoch, id)
  if OF_PATH[kind] then
    local from = char(band(rshift(flags, 1), 1))
    for _, key in pairs(paths[id .. char(epoch)] or {}) do
      for _, purpose in ipairs({ TUNNEL, LEG }) do
        local body = open_control(datagram, key, purpose, id, char(epoch) .. from)
        if body then return body end
      end
    end
    return nil
  end
  for _, pair in pairs(shared[id] or {}) do
    local body = open_control(datagram, pair.key, CONTROL, pair.from, pair.to)
    if body then return body, pair.to end
  end
end
-- The packet inside a data packet, as far as it was captured. Its MAC or tag takes long and is not looked at: a key is right where what it opens
-- reads as an IPv4 header of a packet of this length.
local function try_data(datagram, flags, suite, epoch, id, length)
  local from = char(epoch) .. char(suite) .. char(band(rshift(flags, 1), 1))
  local body = sub(datagram, HEADER + 1, HEADER + (suite == 1 and math.ceil(length / 16) * 16 or length))
  for _, key in pairs(paths[id .. char(epoch)] or {}) do
    local material = derive(key, DATA, 64, id, from)
    local function opened(part)
      if suite == 0 then return part end
      if suite == 2 then return gcm(sub(material, 1, 16), sub(material, 17, 20) .. sub(datagram, 9, 16), part) end
      return cbc(sub(material, 1, 16), encrypt_block(schedule(sub(material, 17, 32)), sub(datagram, 1, 16)), part)
    end
    local first, _, high, low = byte(opened(sub(body, 1, 16)), 1, 4)
    if low and rshift(first, 4) == 4 and band(first, 15) >= 5 and high * 256 + low == length then return sub(opened(body), 1, length) end
  end
end

-- Reads a body into lines: { name, text, offset, length, depth }; the keys in it are learned by `learned`.
local function read(body, fields, learned)
  local at, lines = 1, {}
  local function take(n)
    if at + n - 1 > #body then error("cut", 0) end
    at = at + n
    return sub(body, at - n, at - 1)
  end
  local function number(n)
    local out = UInt64(0, 0)
    for c in take(n):gmatch(".") do out = out * 256 + byte(c) end
    return out
  end
  local function address()
    local family = byte(take(1))
    if family == 4 then return table.concat({ byte(take(4), 1, 4) }, ".") end
    if family ~= 6 then error("family", 0) end
    return tostring(ByteArray.new(hex(take(16))):tvb("address")(0, 16):ipv6()), true
  end
  local simple = {
    u8 = function() return tostring(byte(take(1))) end, u16 = function() return tostring(number(2)) end,
    u32 = function() return tostring(number(4)) end, u64 = function() return tostring(number(8)) end,
    bool = function() local value = byte(take(1)); if value > 1 then error("truth", 0) end; return value == 1 and "true" or "false" end,
    ms = function() return tostring(number(4)) .. " ms" end,
    ip4 = function() return table.concat({ byte(take(4), 1, 4) }, ".") end,
    range = function() return table.concat({ byte(take(4), 1, 4) }, ".") .. "/" .. byte(take(1)) end,
    ip = function() return (address()) end,
    socket = function() local ip, six = address(); return (six and "[%s]:%s" or "%s:%s"):format(ip, tostring(number(2))) end,
    name = function() return take(byte(take(1))) end,
  }
  local function value(name, kind, depth, values)
    local begin = at
    local function line(text, note) lines[#lines + 1] = { name, text, begin - 1, at - begin, depth, note } end
    if kind == "id" then
      local id = take(16)
      values[name] = id
      line(hex(id), names[id])
    elseif kind == "key" then
      values[name] = take(32)
      line("(a key)")
    elseif type(kind) == "string" then
      values[name] = simple[kind]()
      line(values[name])
    elseif kind.maybe then
      if simple.bool() == "true" then value(name, kind.maybe, depth, values) end
    elseif kind.list then
      for n = 1, byte(take(1)) do
        local inner = {}
        values[name] = values[name] or {}
        value(name, kind.list, depth, inner)
        values[name][n] = inner[name]
      end
    elseif kind.one then
      local choice = kind.one[byte(take(1))]
      if not choice then error("choice", 0) end
      line(type(choice) == "table" and choice[1] or choice)
      if type(choice) == "table" then
        values[name] = {}
        for _, part in ipairs(choice[2]) do value(part[1], part[2], depth + 1, values[name]) end
      else
        values[name] = choice
      end
    else
      line("")
      values[name] = {}
      for _, part in ipairs(kind) do value(part[1], part[2], depth + 1, values[name]) end
    end
  end
  local values = {}
  for _, part in ipairs(fields) do value(part[1], part[2], 0, values) end
  if at <= #body then error("left over", 0) end
  return lines, values
end

-- Takes the keys that a message hands out.
local function take_keys(kind, values, id, epoch, to)
  if kind == 0x02 or kind == 0x04 then
    for _, relay in ipairs(values.relays or {}) do if to then share(to, relay.relay, relay.key) end end
  elseif kind == 0x14 then
    for _, name in ipairs({ "initiator_key", "responder_key", "temp_key" }) do
      if values.order[name] then learn(values.path, tonumber(values.epoch), values.order[name]) end
    end
  elseif kind == 0x16 then
    if values.path_key then learn(values.path, tonumber(values.epoch), values.path_key) end
    if values.route.temp_key then learn(values.path, tonumber(values.epoch), values.route.temp_key) end
  elseif kind == 0x20 and values.common_key then
    learn(id, epoch, values.common_key)
  end
end

local ip_dissector = Dissector.get("ip")

-- What is inside a datagram: worked out once, in the order of the capture.
local function open(datagram, kind, flags, suite, epoch, id, length)
  load_keys()
  if kind == 0x30 then
    return { inner = ntm.prefs.inside and try_data(datagram, flags, suite, epoch, id, length) }
  end
  if #datagram ~= HEADER + IV + length + MAC then return {} end
  local body, to = try_control(datagram, kind, flags, epoch, id)
  if not body then return {} end
  local read_well, lines, values = pcall(read, body, BODIES[kind])
  if not read_well then return { body = body, malformed = true } end
  take_keys(kind, values, id, epoch, to)
  return { body = body, lines = lines, to = to }
end

-- One datagram, of which `buffer` holds the beginning at least; returns how long it is.
local function dissect(buffer, pinfo, tree)
  local captured = buffer:captured_len()
  local kind, flags, epoch = buffer(1, 1):uint(), buffer(2, 1):uint(), buffer(3, 1):bitfield(0, 4)
  local suite, length = buffer(3, 1):bitfield(4, 4), buffer(4, 2):uint()
  local whole = HEADER + (kind == 0x30 and (suite == 1 and math.ceil(length / 16) * 16 or length) or IV + length) + MAC
  local cut = captured < whole
  captured = math.min(captured, whole)
  local datagram = buffer:raw(0, captured)
  local id = sub(datagram, 17, 32)
  local number = pinfo.number
  -- A packet within a packet has the same number: told apart by its bytes.
  local mark = number .. ":" .. sub(datagram, 1, 16)
  opened[mark] = opened[mark] or open(datagram, kind, flags, suite, epoch, id, length)
  local inside = opened[mark]

  pinfo.cols.protocol = "NTMobile"
  local who = OF_PATH[kind] and ("path " .. hex(sub(id, 1, 4))) or (names[id] or "node " .. hex(sub(id, 1, 4)))
  pinfo.cols.info = ("%s, %s, seq %s%s"):format(KINDS[kind], who, tostring(buffer(8, 8):uint64()), kind ~= 0x30 and not inside.body and " (not opened)" or "")
  local top = tree:add(ntm, buffer(0, captured), ("NTMobile, %s"):format(KINDS[kind]))
  top:add(f.version, buffer(0, 1))
  top:add(f.kind, buffer(1, 1))
  local bits = top:add(f.flags, buffer(2, 1))
  bits:add(f.encrypted, buffer(2, 1)); bits:add(f.responder, buffer(2, 1)); bits:add(f.leg, buffer(2, 1))
  top:add(f.epoch, buffer(3, 1)); top:add(f.suite, buffer(3, 1)); top:add(f.length, buffer(4, 2)); top:add(f.reserved, buffer(6, 2))
  top:add(f.sequence, buffer(8, 8))
  local whose = top:add(OF_PATH[kind] and f.path or f.node, buffer(16, 16))
  if names[id] then whose:append_text(" (" .. names[id] .. ")") end

  if cut then top:add_proto_expert_info(warn.cut) end
  if kind ~= 0x30 and captured >= HEADER + IV then top:add(f.iv, buffer(HEADER, IV)) end
  if not cut then top:add(f.mac, buffer(whole - MAC, MAC)) end

  if inside.inner then
    local packet = ByteArray.new(hex(inside.inner .. rep("\0", length - #inside.inner))):tvb("Packet inside")
    ip_dissector:call(packet, pinfo, tree)
  elseif inside.body then
    local body = ByteArray.new(hex(inside.body)):tvb("Body")
    if inside.malformed then top:add_proto_expert_info(warn.malformed) end
    local parents = { [-1] = top }
    for _, line in ipairs(inside.lines or {}) do
      local name, text, offset, size, depth, note = line[1], line[2], line[3], line[4], line[5], line[6]
      local shown = text == "" and name or ("%s: %s%s"):format(name, text, note and " (" .. note .. ")" or "")
      parents[depth] = parents[depth - 1]:add(f.field, body(offset, size), ("%s=%s"):format(name, text)):set_text(shown)
    end
  else
    local begin = HEADER + (kind == 0x30 and 0 or IV)
    if captured > begin then top:add(f.body, buffer(begin, math.max(1, math.min(captured, whole - MAC) - begin))) end
    if flags % 2 == 1 and not cut then top:add_proto_expert_info(warn.unopened) end
  end
  return whole
end

-- A frame may hold several: what a node hands to its kernel in one piece is captured before it is split.
function ntm.dissector(buffer, pinfo, tree)
  local at, captured = 0, buffer:captured_len()
  while captured - at >= HEADER and buffer(at, 1):uint() == 1 and KINDS[buffer(at + 1, 1):uint()] do
    at = at + dissect(buffer(at):tvb(), pinfo, tree)
  end
  return math.min(at, captured)
end

local registered
local function register()
  local ports = DissectorTable.get("udp.port")
  if registered then ports:remove(registered, ntm) end
  registered = ntm.prefs.port
  ports:add(registered, ntm)
end
ntm.prefs_changed = register
register()
