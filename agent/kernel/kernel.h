/* What the compiled kernel and agent.decode agree on. Python compares `nodetap_tables` with its own enums and schema
 * before it uses the kernel, so a list below that drifts turns the kernel off. */
#ifndef NODETAP_KERNEL_H
#define NODETAP_KERNEL_H

#include <stdint.h>

#define MAX_LAYERS 48

/* agent.decode.kinds.Kind */
#define KINDS(X) \
    X(NONE, 0) X(ETHERNET, 1) X(SLL, 2) X(SLL2, 3) X(NULL, 4) X(LOOP, 5) X(RAW, 6) X(PPP, 7) X(CHDLC, 8) X(LLC, 9) \
    X(VLAN, 10) X(ARP, 11) X(IPV4, 12) X(IPV6, 13) X(V6_OPTIONS, 14) X(V6_FRAGMENT, 15) X(AH, 16) X(TCP, 17) \
    X(UDP, 18) X(UDPLITE, 19) X(SCTP, 20) X(ICMP, 21) X(ICMPV6, 22) X(GRE, 23) X(IP4_IN_IP, 24) X(IP6_IN_IP, 25) \
    X(ETHER_IN_IP, 26) X(MPLS_IN_IP, 27) X(PBB, 28) X(MPLS, 29) X(PPPOE, 30) X(VXLAN, 31) X(VXLAN_GPE, 32) \
    X(GENEVE, 33) X(GTPU, 34) X(ERSPAN2, 35) X(ERSPAN3, 36) X(NSH, 37) X(GTPU_EXTENSION, 38) X(VXLAN_LIKELY, 39) \
    X(L2TP, 40) X(TEREDO, 41) X(PFLOG, 42) X(WCCP, 43) X(LISP, 44) X(SHIM6, 45) X(SHIM8, 46) \
    X(MACSEC, 47) X(PIM, 48) X(ETHERNET_IN_IP, 49) X(GTPU_PDU, 50) X(MULTILINK, 51) X(FDDI, 52) X(TOKEN_RING, 53) \
    X(ENC, 54) X(IP_OVER_FC, 55) X(IEEE1394, 56) X(FRAME_RELAY, 57) X(PKTAP, 58) X(RFC1483, 59)

/* protocol.schema.Has: the bits up to the transport layer */
#define BITS(X) \
    X(TIME, 0) X(ETH, 1) X(VLAN, 2) X(MPLS, 3) X(TUNNEL, 4) X(ARP, 5) X(ARP_IPV4, 6) X(IPV4, 7) X(IPV6, 8) \
    X(FRAG, 9) X(TCP, 10) X(TCP_SEQ, 11) X(TCP_ACK, 12) X(TCP_FLAGS, 13) X(TCP_WINDOW, 14) X(TCP_LEN, 15) X(UDP, 16) \
    X(UDP_LENGTH, 17) X(SCTP, 18) X(ICMP, 19) X(ICMP_CODE, 20) X(ICMPV6, 21) X(ICMPV6_CODE, 22) X(MALFORMED, 23) \
    X(ETHERTYPE, 24) X(SLOW, 25) X(SKIPPED, 26) X(IFACE_ID, 27) X(IP, 28) X(TUNNEL_IP, 29)

/* agent.decode.walk.TUNNELS; a "-" in a name is a "_" here */
#define TUNNELS(X) \
    X(none, 0) X(vxlan, 1) X(vxlan_gpe, 2) X(geneve, 3) X(gre, 4) X(gretap, 5) X(erspan, 6) X(pptp, 7) X(ipip, 8) \
    X(6in4, 9) X(4in6, 10) X(6in6, 11) X(gtpu, 12) X(mpls, 13) X(pppoe, 14) X(etherip, 15) X(nsh, 16) X(l2tp, 17) \
    X(teredo, 18) X(lisp, 19) X(pbb, 20) X(pim, 21) X(ethernet, 22)

/* The columns of protocol.schema.PACKETS that a walk writes, with their wire types. */
#define COLUMNS(X) \
    X(layers, u8) X(ethertype, u2) X(eth_src, u8) X(eth_dst, u8) X(eth_type, u2) X(src, addr) X(dst, addr) \
    X(proto, u1) X(src_port, u2) X(dst_port, u2) X(tunnel_src, addr) X(tunnel_dst, addr) X(tunnel_id, u4) \
    X(arp_opcode, u2) X(nxt, u1) X(ttl, u1) X(dsfield, u1) X(ip_len, u4) X(ip_id, u4) X(frag_offset, u2) \
    X(frag_more, u1) X(tcp_flags, u2) X(tcp_seq, u4) X(tcp_ack, u4) X(tcp_window, u2) X(tcp_len, u4) \
    X(udp_length, u2) X(icmp_type, u1) X(icmp_code, u1)

typedef uint8_t u1;
typedef uint16_t u2;
typedef uint32_t u4;
typedef uint64_t u8;
typedef struct {
    uint8_t bytes[16];
} addr;

#define ENTRY(name, number) KIND_##name = number,
enum kind { KINDS(ENTRY) };
#undef ENTRY
#define ENTRY(name, number) TUNNEL_##name = number,
enum tunnel { TUNNELS(ENTRY) };
#undef ENTRY
#define ENTRY(name, bit) static const uint64_t HAS_##name __attribute__((unused)) = (uint64_t)1 << bit;
BITS(ENTRY)
#undef ENTRY

/* Values of a list column: `rows[i]` has one more of them, `values[i]`. */
struct list {
    int64_t *rows;
    uint32_t *values;
    int64_t *used;
};

/* One block, as agent.decode.walk.Walk. Every member is 8 bytes wide: Python fills it in as an array of integers. */
struct walk {
    const uint8_t *data;
    int64_t size;                           /* bytes of `data` */
    int64_t n;                              /* frames */
    int64_t *off, *cap, *end;               /* positions in `data`, one per frame */
    uint8_t *kind;                          /* the layer each frame stands at */
    int64_t *payload_start, *payload_length; /* null where nobody asks */
    struct list vlan_id, mpls_label;
    int64_t room; /* of either list */
    const uint8_t *next_ethertype, *next_ipv4, *next_ipv6, *next_udp_source, *next_udp_destination; /* kinds */
    const uint16_t *ppp_ethertype;
    uint32_t *tunnel_type;
#define ENTRY(name, type) type *name;
    COLUMNS(ENTRY)
#undef ENTRY
};

#define EXPORT __attribute__((visibility("default")))

static inline uint16_t be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t be32(const uint8_t *p) { return (uint32_t)be16(p) << 16 | be16(p + 2); }
static inline uint64_t be48(const uint8_t *p) { return (uint64_t)be16(p) << 32 | be32(p + 2); }
static inline uint32_t le32(const uint8_t *p) {
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

#endif
