//! What the agent is told of the interfaces that the guest is joined to: what the namespace has.

use std::net::IpAddr;

use bulkhead_agent_protocol::messages as proto;
use rtnetlink::{
    packet_core::Nla,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
            RouteNextHopFlags, RouteProtocol, RouteType, RouteVia,
        },
    },
};

use super::{netlink::Dumps, scan::Interface};

/// Describes `interfaces`, which the guest finds in `slots`, and all that belongs to them.
pub fn describe(interfaces: &[Interface], slots: &[u32], dumps: &Dumps) -> proto::ConfigureNetworkRequest {
    let names = Names(interfaces);
    let described = interfaces.iter().zip(slots).map(|(interface, slot)| {
        let of_it = |address: &&AddressMessage| address.header.index == interface.index;
        proto::NetworkInterface {
            slot: *slot,
            name: interface.name.clone(),
            up: interface.up,
            addresses: dumps
                .addresses
                .iter()
                .filter(of_it)
                .filter_map(|message| address(message, &interface.name))
                .collect(),
            ipv6_disabled: interface.ipv6.is_none_or(|ipv6| ipv6.disabled),
            accept_ra: interface.ipv6.map_or(1, |ipv6| ipv6.accept_ra),
            autoconf: interface.ipv6.map_or(1, |ipv6| ipv6.autoconf),
            ..Default::default()
        }
    });
    proto::ConfigureNetworkRequest {
        interfaces: described.collect(),
        routes: dumps
            .routes
            .iter()
            .filter_map(|message| route(message, names))
            .collect(),
        neighbours: dumps
            .neighbours
            .iter()
            .filter_map(|message| neighbour(message, names))
            .collect(),
        ..Default::default()
    }
}

/// The interfaces that are described, by number.
#[derive(Clone, Copy)]
struct Names<'a>(&'a [Interface]);

impl Names<'_> {
    fn get(self, index: u32) -> Option<String> {
        self.find(index).map(|interface| interface.name.clone())
    }

    fn find(&self, index: u32) -> Option<&Interface> {
        self.0.iter().find(|interface| interface.index == index)
    }
}

/// An address; none when somebody else was found to have it.
fn address(message: &AddressMessage, interface: &str) -> Option<proto::InterfaceAddress> {
    if message.header.flags.contains(AddressHeaderFlags::Dadfailed) {
        return None;
    }
    let mut described = proto::InterfaceAddress {
        prefix_length: message.header.prefix_len.into(),
        scope: u8::from(message.header.scope).into(),
        valid_seconds: u32::MAX,
        preferred_seconds: u32::MAX,
        ..Default::default()
    };
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(octets(*ip)),
            AddressAttribute::Address(ip) => address = Some(octets(*ip)),
            AddressAttribute::Broadcast(ip) => described.broadcast = ip.octets().to_vec(),
            AddressAttribute::Label(label) if label != interface => described.label.clone_from(label),
            AddressAttribute::CacheInfo(info) => {
                described.valid_seconds = info.ifa_valid;
                described.preferred_seconds = info.ifa_preferred;
            }
            _ => {}
        }
    }
    // A link between two has both, everything else has one of them or the same twice.
    described.peer = match (&local, &address) {
        (Some(local), Some(address)) if local != address => address.clone(),
        _ => Vec::new(),
    };
    described.local = local.or(address)?;
    Some(described)
}

/// A route of the main table, if it is one of the interfaces'. Those that leads nowhere belong to no interface.
fn route(message: &RouteMessage, names: Names<'_>) -> Option<proto::Route> {
    let header = &message.header;
    let leads_nowhere = matches!(
        header.kind,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw
    );
    if table(message) != u32::from(RouteHeader::RT_TABLE_MAIN)
        || header.flags.contains(RouteFlags::Cloned)
        || !(leads_nowhere || header.kind == RouteType::Unicast)
    {
        return None;
    }
    let mut described = proto::Route {
        ipv6: header.address_family == AddressFamily::Inet6,
        prefix_length: header.destination_prefix_length.into(),
        type_: u8::from(header.kind).into(),
        scope: u8::from(header.scope).into(),
        protocol: u8::from(header.protocol).into(),
        tos: header.tos.into(),
        ..Default::default()
    };
    let mut hop = RouteNextHop::default();
    if header.flags.contains(RouteFlags::Onlink) {
        hop.flags |= RouteNextHopFlags::Onlink;
    }
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => described.destination = route_address(address)?,
            RouteAttribute::PrefSource(address) => described.preferred_source = route_address(address)?,
            RouteAttribute::Priority(priority) => described.priority = *priority,
            RouteAttribute::Metrics(metrics) => {
                described.metrics = metrics.iter().filter_map(metric).collect();
            }
            RouteAttribute::Oif(index) => hop.interface_index = *index,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => hop.attributes.push(attribute.clone()),
            RouteAttribute::MultiPath(several) => hops.clone_from(several),
            // A tunnel that this kernel is a part of, not the guest's.
            RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    if !leads_nowhere {
        if hops.is_empty() {
            hops.push(hop);
        }
        described.hops = hops
            .iter()
            .map(|hop| next_hop(hop, names))
            .collect::<Option<_>>()?;
        if header.protocol == RouteProtocol::Ra && hops.iter().all(|hop| hears_routers(hop, names)) {
            // The guest asks the router itself, and learns for how long the route is good.
            return None;
        }
    }
    Some(described)
}

fn hears_routers(hop: &RouteNextHop, names: Names<'_>) -> bool {
    let ipv6 = names
        .find(hop.interface_index)
        .and_then(|interface| interface.ipv6);
    ipv6.is_some_and(|ipv6| ipv6.accept_ra > 0)
}

fn table(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or(message.header.table.into())
}

fn next_hop(hop: &RouteNextHop, names: Names<'_>) -> Option<proto::NextHop> {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => route_address(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(address.octets().to_vec()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(address.octets().to_vec()),
        _ => None,
    });
    Some(proto::NextHop {
        interface: names.get(hop.interface_index)?,
        gateway: gateway.unwrap_or_default(),
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        weight: u32::from(hop.hops) + 1,
        ..Default::default()
    })
}

/// A metric that is a number: all but the name of a congestion control, which the guest may not have.
fn metric(metric: &RouteMetric) -> Option<proto::RouteMetric> {
    let mut value = [0; 4];
    if metric.value_len() != value.len() || matches!(metric, RouteMetric::CcAlgo(_)) {
        return None;
    }
    metric.emit_value(&mut value);
    Some(proto::RouteMetric {
        kind: metric.kind().into(),
        value: u32::from_ne_bytes(value),
        ..Default::default()
    })
}

/// A neighbour that was entered by hand.
fn neighbour(message: &NeighbourMessage, names: Names<'_>) -> Option<proto::Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut described = proto::Neighbour {
        interface: names.get(message.header.ifindex)?,
        flags: message.header.flags.bits().into(),
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                described.address = address.octets().to_vec();
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                described.address = address.octets().to_vec();
            }
            NeighbourAttribute::LinkLayerAddress(address) => described.link_address.clone_from(address),
            _ => {}
        }
    }
    (!described.address.is_empty()).then_some(described)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn route_address(address: &RouteAddress) -> Option<Vec<u8>> {
    match address {
        RouteAddress::Inet(address) => Some(address.octets().to_vec()),
        RouteAddress::Inet6(address) => Some(address.octets().to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
