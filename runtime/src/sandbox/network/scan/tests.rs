use rtnetlink::packet_route::address::{AddressMessage, AddressScope};
use rtnetlink::packet_route::link::LinkAttribute as Attribute;

use super::*;

/// An interface that is up.
fn link(index: u32, name: &str, kind: InfoKind) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.link_layer_type = LinkLayerType::Ether;
    link.attributes = vec![
        Attribute::IfName(name.to_owned()),
        Attribute::Address(vec![2, 0, 0, 0, 0, u8::try_from(index).expect("a small number")]),
        Attribute::Mtu(1500),
        Attribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
    ];
    link
}

fn address(index: u32, scope: AddressScope) -> AddressMessage {
    let mut address = AddressMessage::default();
    address.header.index = index;
    address.header.scope = scope;
    address
}

fn names(dumps: &Dumps) -> Vec<String> {
    let selected = select(dumps).expect("nothing is refused");
    selected.into_iter().map(|interface| interface.name).collect()
}

fn refusal(links: Vec<LinkMessage>, addresses: Vec<AddressMessage>) -> String {
    let dumps = Dumps {
        links,
        addresses,
        ..Dumps::default()
    };
    select(&dumps).expect_err("something is refused").to_string()
}

#[test]
fn what_is_in_use_is_joined_in_the_order_of_its_numbers() {
    let mut loopback = link(1, "lo", InfoKind::Dummy);
    loopback.header.flags |= LinkFlags::Loopback;
    let mut idle = link(2, "tunl0", InfoKind::IpIp);
    idle.header.flags = LinkFlags::empty();
    idle.header.link_layer_type = LinkLayerType::Tunnel;
    let mut down = link(3, "eth1", InfoKind::Veth);
    down.header.flags = LinkFlags::empty();
    let dumps = Dumps {
        links: vec![
            link(9, "eth0", InfoKind::Veth),
            loopback,
            idle,
            down,
            link(4, "bulkhead0", InfoKind::Tun),
            link(5, "macvlan0", InfoKind::MacVlan),
        ],
        addresses: vec![address(1, AddressScope::Host), address(3, AddressScope::Universe)],
        ..Dumps::default()
    };
    assert_eq!(names(&dumps), ["eth1", "macvlan0", "eth0"]);
    let selected = select(&dumps).expect("nothing is refused");
    assert_eq!(
        selected[0],
        Interface {
            index: 3,
            name: "eth1".to_owned(),
            mac: [2, 0, 0, 0, 0, 3],
            mtu: 1500,
            up: false,
            ipv6: None,
        }
    );
}

#[test]
fn what_only_carries_others_is_left_to_them() {
    let mut vlan = link(3, "eth0.7", InfoKind::Vlan);
    vlan.attributes.push(Attribute::Link(2));
    let mut port = link(5, "port", InfoKind::Veth);
    port.attributes.push(Attribute::Controller(4));
    // The number of a peer in another namespace is that of a stranger here.
    port.attributes.push(Attribute::Link(3));
    port.attributes.push(Attribute::LinkNetNsId(0));
    let links = vec![
        link(2, "eth0", InfoKind::Veth),
        vlan,
        link(4, "br0", InfoKind::Bridge),
        port,
    ];
    let dumps = Dumps {
        links: links.clone(),
        addresses: vec![address(2, AddressScope::Link), address(3, AddressScope::Universe)],
        ..Dumps::default()
    };
    assert_eq!(names(&dumps), ["eth0.7", "br0"]);
    let refused = refusal(links, vec![address(2, AddressScope::Universe)]);
    assert!(refused.starts_with("interface eth0 has addresses of its own and also carries eth0.7"));
}

#[test]
fn both_ends_of_a_veth_are_interfaces_of_their_own() {
    let mut links = vec![link(2, "a", InfoKind::Veth), link(3, "b", InfoKind::Veth)];
    links[0].attributes.push(Attribute::Link(3));
    links[1].attributes.push(Attribute::Link(2));
    let dumps = Dumps {
        links,
        ..Dumps::default()
    };
    assert_eq!(names(&dumps), ["a", "b"]);
}

#[test]
fn what_takes_no_ethernet_frames_is_refused_by_name_and_kind() {
    let mut tunnel = link(2, "wg0", InfoKind::Wireguard);
    tunnel.header.link_layer_type = LinkLayerType::None;
    assert!(refusal(vec![tunnel], Vec::new()).starts_with("interface wg0 (wireguard) is not Ethernet"));
    let mut ipvlan = link(2, "eth0", InfoKind::IpVlan);
    let mode = vec![InfoIpVlan::Mode(IpVlanMode::L3)];
    let data = LinkInfo::Data(InfoData::IpVlan(mode));
    ipvlan.attributes.push(Attribute::LinkInfo(vec![data]));
    assert!(refusal(vec![ipvlan], Vec::new()).starts_with("interface eth0 is an ipvlan in mode l3"));
}
