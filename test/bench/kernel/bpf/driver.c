// SPDX-License-Identifier: Apache-2.0
/* Makes a test run of one frame one of many flows: it writes another destination
 * and source port into the frame, undoes what the program before has changed, and
 * hands the frame to the program that is measured. With an empty program in that
 * place it measures itself.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Which bits of a random number choose the flow: the lowest eight the destination
 * address, the others the source port. None: the frame stays one flow.
 */
volatile const __u32 flow_mask;
volatile const __u8 is_ipv6;

/* Sum of the words of the IPv4 header, without its checksum, with the TTL as it is
 * set here and the destination's last byte zero.
 */
volatile const __u32 ipv4_sum;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} measured SEC(".maps");

#define TTL 64

struct ports {
	__be16 source;
	__be16 dest;
};

/* Offsets of the last byte of the destination, the checksum, the TTL and the ports. */
#define IPV4_DEST (ETH_HLEN + 19)
#define IPV4_CHECK (ETH_HLEN + 10)
#define IPV4_TTL (ETH_HLEN + 8)
#define IPV4_PORTS (ETH_HLEN + 20)
#define IPV6_DEST (ETH_HLEN + 39)
#define IPV6_TTL (ETH_HLEN + 7)
#define IPV6_PORTS (ETH_HLEN + 40)

/* Source ports begin here. */
#define FIRST_PORT 1024

SEC("tc")
int driver(struct __sk_buff *skb)
{
	__u32 chosen = bpf_get_prandom_u32() & flow_mask;
	void *data = (void *)(long)skb->data;
	struct ports *ports = data + (is_ipv6 ? IPV6_PORTS : IPV4_PORTS);

	if ((void *)(ports + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	*(__u8 *)(data + (is_ipv6 ? IPV6_DEST : IPV4_DEST)) = chosen;
	*(__u8 *)(data + (is_ipv6 ? IPV6_TTL : IPV4_TTL)) = TTL;
	if (!is_ipv6) {
		__u32 sum = ipv4_sum + (chosen & 0xff);

		*(__be16 *)(data + IPV4_CHECK) = ~bpf_htons((sum & 0xffff) + (sum >> 16));
	}
	ports->source = bpf_htons(FIRST_PORT + (chosen >> 8));
	bpf_tail_call(skb, &measured, 0);
	return -1;
}

SEC("tc")
int empty(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Apache-2.0";
