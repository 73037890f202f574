// SPDX-License-Identifier: GPL-2.0 OR MIT
// RS-S at the ingress of an interface (T4.1.3-a): a data packet of a path that is switched leaves again for the path's other end, its outer
// addresses, ports and hop limit changed, and nothing else. What is anything else goes up to the relay unchanged: it decides what comes of it.
//
// The object beside this file is what clang 14 makes of it; ./test makes it again by relay/src/rs_s/build and compares.
// No header but the kernel's own is used, so that the object depends on the compiler alone.

#include <linux/bpf.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define BIG16(x) __builtin_bswap16(x)

static void *(*const lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static u64 (*const now)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*const load)(const void *skb, u32 offset, void *to, u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const store)(void *skb, u32 offset, const void *from, u32 len, u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*const pull)(void *skb, u32 len) = (void *)BPF_FUNC_skb_pull_data;
static long (*const l3_replace)(void *skb, u32 offset, u64 from, u64 to, u64 size) = (void *)BPF_FUNC_l3_csum_replace;
static long (*const l4_replace)(void *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static long (*const difference)(void *from, u32 from_size, void *to, u32 to_size, u32 seed) = (void *)BPF_FUNC_csum_diff;
static long (*const check_mtu)(void *skb, u32 link, u32 *mtu, int grows, u64 flags) = (void *)BPF_FUNC_check_mtu;
static long (*const redirect_neigh)(u32 link, void *params, int size, u64 flags) = (void *)BPF_FUNC_redirect_neigh;

struct map {
	u32 type, key_size, value_size, max_entries, flags;
};

// These three are those of `kernel.rs`.
struct key {
	u8 path[16];
	// 1 for what the path's responder sends.
	u32 responder;
};

struct hop {
	// Where to; where it must have come to; where it leaves from. An IPv4 address is the first of four words.
	u32 to[4], at[4], from[4];
	// In network order.
	u16 port;
	// 4 or 6.
	u16 version;
	// The interface that it leaves by.
	u32 link;
	// The generation in which it may pass here.
	u32 open;
	u32 zero;
	// When a packet of it was last left to the relay, because it might not pass here yet.
	u64 passed;
};

struct settings {
	// When this generation began: nothing passed here just before.
	u64 since;
	// How long nothing of a path may have gone the other way before it passes here.
	u64 gap;
	// 0 while the relay switches.
	u32 generation;
	// In network order.
	u16 port, zero;
};

struct counts {
	u64 packets, bytes, trains, up, failed;
};

struct map SECTION("maps") hops = { BPF_MAP_TYPE_HASH, sizeof(struct key), sizeof(struct hop), 131072, BPF_F_NO_PREALLOC };
struct map SECTION("maps") settings = { BPF_MAP_TYPE_ARRAY, 4, sizeof(struct settings), 1, 0 };
struct map SECTION("maps") counts = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, sizeof(struct counts), 1, 0 };

#define ETHERNET 14
#define V4 20
#define V6 40
#define UDP 8
#define NTM 32

// TCX_NEXT: the next program, and then the network stack.
#define UP -1
// TC_ACT_SHOT
#define DROP 2

#define STORE_AT(offset, value) store(skb, offset, &(value), sizeof(value), 0)

INLINE int to_v4(struct __sk_buff *skb, struct hop *hop, u32 *ip)
{
	u32 udp = ETHERNET + V4, sum = udp + 6, keep = BPF_F_MARK_MANGLED_0;
	u16 ports[2];
	u16 hops, fewer;

	if (load(skb, udp, ports, 4) || load(skb, ETHERNET + 8, &hops, 2))
		return UP;
	// Its low byte in network order is the protocol, its high byte the hop limit.
	fewer = BIG16(BIG16(hops) - 0x100);
	// Each of these fails only where the packet is not writable, and then the first one does.
	if (l3_replace(skb, ETHERNET + 10, hops, fewer, 2))
		return UP;
	l3_replace(skb, ETHERNET + 10, ip[0], hop->from[0], 4);
	l3_replace(skb, ETHERNET + 10, ip[1], hop->to[0], 4);
	l4_replace(skb, sum, ip[0], hop->from[0], BPF_F_PSEUDO_HDR | keep | 4);
	l4_replace(skb, sum, ip[1], hop->to[0], BPF_F_PSEUDO_HDR | keep | 4);
	l4_replace(skb, sum, ports[0], ports[1], keep | 2);
	l4_replace(skb, sum, ports[1], hop->port, keep | 2);
	ip[0] = hop->from[0];
	ip[1] = hop->to[0];
	ports[0] = ports[1];
	ports[1] = hop->port;
	if (STORE_AT(ETHERNET + 8, fewer) || store(skb, ETHERNET + 12, ip, 8, 0) || store(skb, udp, ports, 4, 0))
		return DROP;
	return 0;
}

INLINE int to_v6(struct __sk_buff *skb, struct hop *hop)
{
	u32 udp = ETHERNET + V6, sum = udp + 6, keep = BPF_F_MARK_MANGLED_0;
	u32 was[8], is[8];
	u16 ports[2];
	u8 limit;
	long changed;

	if (load(skb, udp, ports, 4) || load(skb, ETHERNET + 8, was, 32) || load(skb, ETHERNET + 7, &limit, 1))
		return UP;
	__builtin_memcpy(is, hop->from, 16);
	__builtin_memcpy(is + 4, hop->to, 16);
	changed = difference(was, 32, is, 32, 0);
	if (changed < 0 || l4_replace(skb, sum, 0, changed, BPF_F_PSEUDO_HDR | keep))
		return UP;
	l4_replace(skb, sum, ports[0], ports[1], keep | 2);
	l4_replace(skb, sum, ports[1], hop->port, keep | 2);
	ports[0] = ports[1];
	ports[1] = hop->port;
	limit--;
	if (STORE_AT(ETHERNET + 7, limit) || store(skb, ETHERNET + 8, is, 32, 0) || store(skb, udp, ports, 4, 0))
		return DROP;
	return 0;
}

// What is to be done with a packet of which this much is sure: it is UDP, for the relay's port, in a packet of the IP version `version`, whose
// NTM header begins at `offset`. `ip` are its outer source and destination.
INLINE int switched(struct __sk_buff *skb, struct settings *set, struct counts *count, u32 offset, u16 version, u32 *ip)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u8 *ntm = data + offset;
	struct key key = {};
	struct hop *hop;
	u32 mtu = 0;
	u64 bytes = skb->len - offset, packets = skb->gso_segs;
	int done;

	if ((void *)(ntm + NTM) > end)
		return UP;
	// Version 1, data, no flag that there is not, the reserved bytes zero.
	if (ntm[0] != 1 || ntm[1] != 0x30 || ntm[2] & ~0x07 || ntm[6] || ntm[7])
		return UP;
	__builtin_memcpy(key.path, ntm + 16, 16);
	key.responder = ntm[2] >> 1 & 1;
	hop = lookup(&hops, &key);
	if (!hop || hop->version != version)
		return UP;
	if (version == 4 ? ip[1] != hop->at[0]
			 : ip[4] != hop->at[0] || ip[5] != hop->at[1] || ip[6] != hop->at[2] || ip[7] != hop->at[3])
		return UP;
	if (check_mtu(skb, hop->link, &mtu, 0, BPF_MTU_CHK_SEGS))
		return UP;
	if (hop->open != set->generation) {
		// The relay may still have packets of this path in hand, which must not be overtaken.
		u64 time = now(), last = hop->passed > set->since ? hop->passed : set->since;

		if (time - last < set->gap) {
			hop->passed = time;
			return UP;
		}
		hop->open = set->generation;
	}
	// Nothing is read from the packet's memory from here on: it may move.
	done = version == 4 ? to_v4(skb, hop, ip) : to_v6(skb, hop);
	if (done) {
		count->failed += done == DROP;
		return done;
	}
	count->packets += packets ? packets : 1;
	count->bytes += bytes;
	count->trains += 1;
	return redirect_neigh(hop->link, 0, 0, 0);
}

// Whether a UDP packet at `ports` is for the relay.
INLINE int is_ours(struct settings *set, u8 *ports)
{
	return *(u16 *)(ports + 2) == set->port;
}

SECTION("classifier") int rs_s(struct __sk_buff *skb)
{
	u32 zero = 0, offset, ip[8] = {};
	struct settings *set = lookup(&settings, &zero);
	struct counts *count = lookup(&counts, &zero);
	void *end;
	u8 *packet;
	int done = UP, is_v4 = skb->protocol == BIG16(0x0800);

	if (!set || !count || !set->generation || (!is_v4 && skb->protocol != BIG16(0x86dd)))
		return UP;
	offset = ETHERNET + (is_v4 ? V4 : V6) + UDP;
	if (skb->len < offset + NTM)
		return UP;
	// Headers that do not lie in one piece are brought together; this changes no byte.
	if ((void *)(long)skb->data + offset + NTM > (void *)(long)skb->data_end && pull(skb, offset + NTM))
		return UP;
	packet = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	// UDP right behind a header without options, a hop left for the next one; over IPv4, no fragment, nor one that must not become one: what
	// the relay itself sends may.
	if (is_v4) {
		if ((void *)packet + ETHERNET + V4 + UDP > end || packet[ETHERNET] != 0x45 || packet[ETHERNET + 9] != 17)
			return UP;
		if (!is_ours(set, packet + ETHERNET + V4))
			return UP;
		if (packet[ETHERNET + 8] > 1 && *(u16 *)(packet + ETHERNET + 6) == 0) {
			__builtin_memcpy(ip, packet + ETHERNET + 12, 8);
			done = switched(skb, set, count, ETHERNET + V4 + UDP, 4, ip);
		}
	} else {
		if ((void *)packet + ETHERNET + V6 + UDP > end || packet[ETHERNET] >> 4 != 6 || packet[ETHERNET + 6] != 17)
			return UP;
		if (!is_ours(set, packet + ETHERNET + V6))
			return UP;
		if (packet[ETHERNET + 7] > 1) {
			__builtin_memcpy(ip, packet + ETHERNET + 8, 32);
			done = switched(skb, set, count, ETHERNET + V6 + UDP, 6, ip);
		}
	}
	if (done == UP)
		count->up += skb->gso_segs ? skb->gso_segs : 1;
	return done;
}

char SECTION("license") rights[] = "Dual MIT/GPL";
