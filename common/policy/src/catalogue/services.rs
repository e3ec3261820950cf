//! The rows of the catalogue.

use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Family, PortRange};

use super::{Direction, Exposure, Group, IcmpOpening, Opening, Roles, Service};
use crate::Transport::{self, Tcp, Udp};

const VENDOR: &str = "vendor page";
const INFERENCE: &str = "inference";

const fn one(port: u16) -> PortRange {
    PortRange::single(port)
}

const fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

const fn open(transport: Transport, ports: &'static [PortRange]) -> Opening {
    Opening { transport, ports }
}

const fn icmp(family: Family, icmp_type: u8, name: &'static str) -> IcmpOpening {
    IcmpOpening {
        family,
        icmp_type,
        name,
        echo: false,
    }
}

/// What most rows have in common.
const ROW: Service = Service {
    name: "",
    direction: Direction::Inbound,
    group: Group::Other,
    openings: &[],
    icmp: &[],
    default_from: &[],
    roles: Roles::All,
    never_world: false,
    media: false,
    basis: VENDOR,
    note: "",
};

const EGRESS: Service = Service {
    direction: Direction::Egress,
    basis: INFERENCE,
    ..ROW
};

/// Every service, in the order in which the chain holds those of one group.
pub static SERVICES: &[Service] = &[
    Service {
        name: "ssh",
        openings: &[open(Tcp, &[one(22)])],
        default_from: &[Exposure::Admins, Exposure::Cluster],
        note: "SSH of the admins is also kept open by the agent's own first rules",
        ..ROW
    },
    Service {
        name: "sip",
        group: Group::Sip,
        openings: &[open(Udp, &[one(5060)]), open(Tcp, &[one(5060)])],
        default_from: &[Exposure::Clients],
        roles: Roles::Of(&[Role::Sip]),
        ..ROW
    },
    Service {
        name: "sip-tls",
        group: Group::Sip,
        openings: &[open(Tcp, &[one(5061)])],
        default_from: &[Exposure::Clients],
        roles: Roles::Of(&[Role::Sip]),
        note: "the vendor page lists udp too, which has no standard use: write proto: [tcp, udp] \
               for it",
        ..ROW
    },
    Service {
        name: "sip-pbx",
        group: Group::Sip,
        openings: &[open(Udp, &[one(5050)]), open(Tcp, &[one(5050)])],
        default_from: &[Exposure::Cluster, Exposure::Clients],
        roles: Roles::Of(&[Role::Pbx, Role::Sip]),
        never_world: true,
        basis: "vendor page; roles by inference",
        note: "Asterisk behind the SIP proxy: never for the world",
        ..ROW
    },
    Service {
        name: "rtp",
        group: Group::Rtp,
        openings: &[open(Udp, &[range(10_000, 20_000)])],
        default_from: &[Exposure::World],
        roles: Roles::Of(&[Role::Pbx]),
        media: true,
        note: "any daemon that listens on a udp port in the range is reachable too",
        ..ROW
    },
    Service {
        name: "t38",
        group: Group::T38,
        openings: &[open(
            Udp,
            &[range(4000, 5049), range(5051, 5059), range(5062, 5999)],
        )],
        default_from: &[Exposure::World],
        roles: Roles::Of(&[Role::Pbx]),
        media: true,
        basis: "vendor page, less the SIP ports that its range 4000-5999 contains",
        note: "fax media, not signalling; always opened without the ports of SIP",
        ..ROW
    },
    Service {
        name: "web",
        openings: &[open(Tcp, &[one(80), one(443)])],
        default_from: &[Exposure::Clients, Exposure::Admins],
        roles: Roles::Of(&[Role::Http, Role::Ic]),
        note: "also carries phone provisioning (/pro/p/) and the APIs; on nodes with ic and \
               without http it is open to admins only",
        ..ROW
    },
    Service {
        name: "tftp",
        openings: &[open(Udp, &[one(69)])],
        default_from: &[Exposure::Clients],
        roles: Roles::Of(&[Role::Http]),
        basis: "vendor page; role unverified",
        note: "the data flows from another port, as an established connection; no helper needed",
        ..ROW
    },
    Service {
        name: "xmpp-c2s",
        openings: &[open(Tcp, &[one(5222)])],
        default_from: &[Exposure::Clients],
        roles: Roles::Of(&[Role::Jabber]),
        note: "chat of the clients' programs",
        ..ROW
    },
    Service {
        name: "xmpp-bosh",
        openings: &[open(Tcp, &[one(5280)])],
        default_from: &[Exposure::Clients],
        roles: Roles::Of(&[Role::Jabber]),
        note: "chat over HTTP",
        ..ROW
    },
    Service {
        name: "xmpp-s2s",
        openings: &[open(Tcp, &[one(5269)])],
        roles: Roles::Of(&[Role::Jabber]),
        note: "off: only a site that federates with other chat servers needs it",
        ..ROW
    },
    Service {
        name: "smtp",
        openings: &[open(Tcp, &[one(25)])],
        roles: Roles::Unpublished,
        basis: "vendor page; role unverified",
        note: "email to fax; off until the site names its relays in from. The vendor does not \
               publish the role that runs it: opened, it is open on every node",
        ..ROW
    },
    Service {
        name: "hubring",
        openings: &[open(Tcp, &[one(11_211)])],
        default_from: &[Exposure::Local, Exposure::Cluster],
        roles: Roles::Of(&[Role::Dd]),
        never_world: true,
        note: "the vendor page calls it Redis; 11211 is memcached's number",
        ..ROW
    },
    Service {
        name: "sql",
        openings: &[open(Tcp, &[one(3306)])],
        default_from: &[Exposure::Cluster],
        roles: Roles::Of(&[Role::Sql]),
        never_world: true,
        basis: INFERENCE,
        note: "MySQL's usual port; the node's own is in /etc/voipnow/sqldbase.conf",
        ..ROW
    },
    Service {
        name: "amqp",
        openings: &[open(Tcp, &[one(5672)])],
        default_from: &[Exposure::Cluster],
        roles: Roles::Of(&[Role::Que]),
        never_world: true,
        basis: INFERENCE,
        note: "RabbitMQ's usual port; the node's own is in /etc/voipnow/amqp.conf",
        ..ROW
    },
    Service {
        name: "es",
        openings: &[open(Tcp, &[one(9200), one(9300)])],
        default_from: &[Exposure::Cluster],
        roles: Roles::Of(&[Role::Es]),
        never_world: true,
        basis: INFERENCE,
        note: "Elasticsearch's usual ports; the node's own are in /etc/voipnow/es.conf",
        ..ROW
    },
    Service {
        name: "erlang",
        openings: &[open(Tcp, &[one(4369), one(25_672)])],
        default_from: &[Exposure::Cluster],
        roles: Roles::Of(&[Role::Que, Role::Jabber]),
        never_world: true,
        basis: INFERENCE,
        note: "the port mapper and the distribution of RabbitMQ and ejabberd",
        ..ROW
    },
    Service {
        name: "nfs",
        openings: &[
            open(Tcp, &[one(111), one(2049)]),
            open(Udp, &[one(111), one(2049)]),
        ],
        roles: Roles::Unpublished,
        never_world: true,
        basis: INFERENCE,
        note: "storage hosts; off until the site sets from (usually cluster). The vendor does \
               not publish the role that runs it: opened, it is open on every node",
        ..ROW
    },
    Service {
        name: "wss",
        openings: &[open(Tcp, &[one(4443), one(7443), one(8082), one(8089)])],
        roles: Roles::Of(&[Role::Sip, Role::Pbx]),
        never_world: true,
        basis: "inference: usual ports of Asterisk, FreeSWITCH and Kamailio; roles by inference",
        note: "SIP of softphones in a browser, over secure WebSocket; off until the site sets from. \
               Their media comes by rtp, or by turn",
        ..ROW
    },
    Service {
        name: "turn",
        openings: &[open(Udp, &[one(3478)]), open(Tcp, &[one(3478), one(5349)])],
        roles: Roles::Unpublished,
        never_world: true,
        basis: "RFC 8656; not part of VoipNow",
        note: "relays media of softphones behind NAT; off until the site sets from. Whoever has its \
               password reaches what the node reaches, so that the world needs dangerous: true. The \
               ports that it relays on (49152-65535/udp) need a rule. No role runs it by itself: \
               opened, it is open on every node",
        ..ROW
    },
    Service {
        name: "stun",
        openings: &[open(Udp, &[one(3478)])],
        roles: Roles::Unpublished,
        never_world: true,
        basis: "RFC 8489; not part of VoipNow",
        note: "tells softphones their own address; off until the site sets from. It shares its port \
               with turn. No role runs it by itself: opened, it is open on every node",
        ..ROW
    },
    Service {
        name: "icmp",
        icmp: &[
            icmp(Family::V4, 3, "destination unreachable"),
            icmp(Family::V4, 11, "time exceeded"),
            icmp(Family::V4, 12, "parameter problem"),
            IcmpOpening {
                echo: true,
                ..icmp(Family::V4, 8, "echo request")
            },
        ],
        default_from: &[Exposure::World],
        basis: "RFC 1812; needed by phones and for the path MTU",
        note: "from narrows echo requests only; echo requests are limited",
        ..ROW
    },
    Service {
        name: "icmpv6",
        icmp: &[
            icmp(Family::V6, 1, "destination unreachable"),
            icmp(Family::V6, 2, "packet too big"),
            icmp(Family::V6, 3, "time exceeded"),
            icmp(Family::V6, 4, "parameter problem"),
            icmp(Family::V6, 130, "multicast listener query"),
            icmp(Family::V6, 131, "multicast listener report"),
            icmp(Family::V6, 132, "multicast listener done"),
            icmp(Family::V6, 133, "router solicitation"),
            icmp(Family::V6, 134, "router advertisement"),
            icmp(Family::V6, 135, "neighbour solicitation"),
            icmp(Family::V6, 136, "neighbour advertisement"),
            icmp(Family::V6, 143, "multicast listener report, version 2"),
            IcmpOpening {
                echo: true,
                ..icmp(Family::V6, 128, "echo request")
            },
        ],
        default_from: &[Exposure::World],
        basis: "RFC 4890, sections 4.4.1 and 4.4.2",
        note: "without it IPv6 does not work at all; from narrows echo requests only; echo \
               requests are limited",
        ..ROW
    },
    Service {
        name: "dns",
        openings: &[open(Udp, &[one(53)]), open(Tcp, &[one(53)])],
        basis: "vendor page, which lists it as incoming and udp only",
        note: "the node asks; nothing is opened inwards",
        ..EGRESS
    },
    Service {
        name: "ntp",
        openings: &[open(Udp, &[one(123)])],
        note: "the node asks; nothing is opened inwards",
        ..EGRESS
    },
    Service {
        name: "sip-out",
        roles: Roles::Of(&[Role::Sip, Role::Pbx]),
        note: "to the signalling networks of the providers, on the ports that they name",
        ..EGRESS
    },
    Service {
        name: "rtp-out",
        openings: &[open(Udp, &[range(1024, 65_535)])],
        roles: Roles::Of(&[Role::Pbx]),
        basis: "other sources: carriers use up to 10000-60000",
        note: "to the media networks of providers and tenants",
        ..EGRESS
    },
    Service {
        name: "https-out",
        openings: &[open(Tcp, &[one(80), one(443)])],
        note: "updates, licences and APIs of others",
        ..EGRESS
    },
    Service {
        name: "smtp-out",
        openings: &[open(Tcp, &[one(25), one(465), one(587)])],
        note: "voicemail and fax by email",
        ..EGRESS
    },
];
