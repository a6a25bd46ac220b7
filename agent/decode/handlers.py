"""The table of layers: which function takes the rows that stand at a kind of layer."""

from __future__ import annotations

from agent.decode import link, network, transport, tunnel
from agent.decode.kinds import Kind
from agent.decode.walk import Handler

HANDLERS: dict[int, Handler] = {
    Kind.ETHERNET: link.ethernet,
    Kind.SLL: link.sll,
    Kind.SLL2: link.sll2,
    Kind.NULL: link.null,
    Kind.LOOP: link.loop,
    Kind.RAW: link.raw,
    Kind.PFLOG: link.pflog,
    Kind.CHDLC: link.chdlc,
    Kind.LLC: link.llc,
    Kind.VLAN: link.vlan,
    Kind.ARP: network.arp,
    Kind.IPV4: network.ipv4,
    Kind.IPV6: network.ipv6,
    Kind.V6_OPTIONS: network.v6_options,
    Kind.V6_FRAGMENT: network.v6_fragment,
    Kind.AH: network.ah,
    Kind.TCP: transport.tcp,
    Kind.UDP: transport.udp,
    Kind.UDPLITE: transport.udplite,
    Kind.SCTP: transport.sctp,
    Kind.ICMP: transport.icmp,
    Kind.ICMPV6: transport.icmpv6,
    Kind.PPP: tunnel.ppp,
    Kind.PPPOE: tunnel.pppoe,
    Kind.MPLS: tunnel.mpls,
    Kind.MPLS_IN_IP: tunnel.mpls_in_ip,
    Kind.IP4_IN_IP: tunnel.ip4_in_ip,
    Kind.IP6_IN_IP: tunnel.ip6_in_ip,
    Kind.ETHER_IN_IP: tunnel.ether_in_ip,
    Kind.GRE: tunnel.gre,
    Kind.ERSPAN2: tunnel.erspan2,
    Kind.ERSPAN3: tunnel.erspan3,
    Kind.VXLAN: tunnel.vxlan,
    Kind.VXLAN_LIKELY: tunnel.vxlan_likely,
    Kind.VXLAN_GPE: tunnel.vxlan_gpe,
    Kind.NSH: tunnel.nsh,
    Kind.GENEVE: tunnel.geneve,
    Kind.GTPU: tunnel.gtpu,
    Kind.GTPU_EXTENSION: tunnel.gtpu_extension,
    Kind.L2TP: tunnel.l2tp,
    Kind.TEREDO: tunnel.teredo,
    Kind.LISP: tunnel.lisp,
    Kind.WCCP: tunnel.wccp,
    Kind.PBB: tunnel.pbb,
}
