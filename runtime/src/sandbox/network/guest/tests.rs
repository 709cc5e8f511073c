use std::net::{Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::{address::CacheInfo, neighbour::NeighbourFlags, route::RouteScope};

use super::*;
use crate::sandbox::network::scan::Ipv6;

fn interface(index: u32, name: &str, accept_ra: i32) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        ipv6: Some(Ipv6 {
            disabled: false,
            accept_ra,
            autoconf: 0,
        }),
    }
}

fn routes(routes: Vec<RouteMessage>) -> Vec<proto::Route> {
    let interfaces = [interface(2, "eth0", 0), interface(3, "eth1", 1)];
    let dumps = Dumps {
        routes,
        ..Dumps::default()
    };
    describe(&interfaces, &[4, 5], &dumps).routes
}

fn main_route(attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.kind = RouteType::Unicast;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.attributes = attributes;
    route
}

#[test]
fn a_route_keeps_its_gateway_and_its_metrics() {
    let metrics = vec![
        RouteMetric::Mtu(1300),
        RouteMetric::Advmss(1200),
        RouteMetric::CcAlgo("reno".to_owned()),
    ];
    let described = routes(vec![main_route(vec![
        RouteAttribute::Oif(2),
        RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 1))),
        RouteAttribute::Metrics(metrics),
        RouteAttribute::Priority(50),
    ])]);
    let [route] = described.as_slice() else {
        panic!("one route: {described:?}")
    };
    let metrics: Vec<_> = route
        .metrics
        .iter()
        .map(|metric| (metric.kind, metric.value))
        .collect();
    assert_eq!(metrics, [(2, 1300), (8, 1200)]);
    assert_eq!((route.priority, route.type_, route.prefix_length), (50, 1, 0));
    assert_eq!(route.hops.len(), 1);
    assert_eq!(route.hops[0].interface, "eth0");
    assert_eq!(route.hops[0].gateway, [10, 0, 0, 1]);
}

#[test]
fn several_hops_stay_several() {
    let hop = |index, weight: u8| {
        let mut hop = RouteNextHop::default();
        (hop.interface_index, hop.hops) = (index, weight - 1);
        hop.flags = RouteNextHopFlags::Onlink;
        hop.attributes = vec![RouteAttribute::Via(RouteVia::Inet6(Ipv6Addr::LOCALHOST))];
        hop
    };
    let described = routes(vec![main_route(vec![RouteAttribute::MultiPath(vec![
        hop(2, 1),
        hop(3, 5),
    ])])]);
    let hops: Vec<_> = described[0]
        .hops
        .iter()
        .map(|hop| (hop.interface.as_str(), hop.weight, hop.onlink, hop.gateway.len()))
        .collect();
    assert_eq!(hops, [("eth0", 1, true, 16), ("eth1", 5, true, 16)]);
}

#[test]
fn what_is_not_the_guests_is_left_out() {
    let mut local = main_route(vec![RouteAttribute::Oif(2)]);
    local.header.table = 255;
    let other_table = main_route(vec![RouteAttribute::Oif(2), RouteAttribute::Table(1000)]);
    let elsewhere = main_route(vec![RouteAttribute::Oif(7)]);
    // eth1 listens to routers and will be told again; eth0 will not.
    let from_router = |index| {
        let mut route = main_route(vec![RouteAttribute::Oif(index)]);
        route.header.address_family = AddressFamily::Inet6;
        route.header.protocol = RouteProtocol::Ra;
        route
    };
    let mut nowhere = main_route(vec![RouteAttribute::Oif(1)]);
    nowhere.header.kind = RouteType::BlackHole;
    let described = routes(vec![
        local,
        other_table,
        elsewhere,
        from_router(3),
        from_router(2),
        nowhere,
    ]);
    let kept: Vec<_> = described
        .iter()
        .map(|route| (route.ipv6, route.type_, route.hops.len()))
        .collect();
    assert_eq!(kept, [(true, 1, 1), (false, 6, 0)]);
}

#[test]
fn addresses_keep_their_peer_label_and_lifetime() {
    let local = Ipv4Addr::new(10, 0, 0, 1);
    let mut one = AddressMessage::default();
    (one.header.index, one.header.prefix_len) = (2, 32);
    let mut lifetimes = CacheInfo::default();
    (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (10, 20);
    one.attributes = vec![
        AddressAttribute::Address(Ipv4Addr::new(10, 0, 0, 9).into()),
        AddressAttribute::Local(local.into()),
        AddressAttribute::Label("eth0:1".to_owned()),
        AddressAttribute::CacheInfo(lifetimes),
    ];
    let mut failed = AddressMessage::default();
    failed.header.index = 2;
    failed.header.flags = AddressHeaderFlags::Dadfailed;
    failed.attributes = vec![AddressAttribute::Address(Ipv6Addr::LOCALHOST.into())];
    let mut plain = AddressMessage::default();
    (plain.header.index, plain.header.prefix_len) = (2, 64);
    plain.attributes = vec![AddressAttribute::Address(Ipv6Addr::LOCALHOST.into())];
    let dumps = Dumps {
        addresses: vec![one, failed, plain],
        ..Dumps::default()
    };
    let described = describe(&[interface(2, "eth0", 2)], &[7], &dumps);
    let [interface] = described.interfaces.as_slice() else {
        panic!("one interface: {described:?}")
    };
    assert_eq!(
        (interface.slot, interface.accept_ra, interface.autoconf),
        (7, 2, 0)
    );
    let [one, plain] = interface.addresses.as_slice() else {
        panic!("two addresses: {interface:?}")
    };
    assert_eq!(
        (&one.local[..], &one.peer[..]),
        (&[10, 0, 0, 1][..], &[10, 0, 0, 9][..])
    );
    assert_eq!(
        (one.label.as_str(), one.preferred_seconds, one.valid_seconds),
        ("eth0:1", 10, 20)
    );
    assert_eq!(
        (plain.local.len(), plain.peer.len(), plain.valid_seconds),
        (16, 0, u32::MAX)
    );
}

#[test]
fn neighbours_that_were_learned_are_not_told() {
    let neighbour = |state, last| {
        let mut message = NeighbourMessage::default();
        (message.header.ifindex, message.header.state) = (2, state);
        message.header.flags = NeighbourFlags::Router;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(10, 0, 0, last))),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last]),
        ];
        message
    };
    let dumps = Dumps {
        neighbours: vec![
            neighbour(NeighbourState::Reachable, 1),
            neighbour(NeighbourState::Permanent, 2),
        ],
        ..Dumps::default()
    };
    let described = describe(&[interface(2, "eth0", 1)], &[0], &dumps).neighbours;
    assert_eq!(described.len(), 1);
    assert_eq!(described[0].address, [10, 0, 0, 2]);
    assert_eq!((described[0].link_address.len(), described[0].flags), (6, 0x80));
}
