//! What the host says about interfaces, addresses, routes and neighbours, in the kernel's form (rtnetlink(7)).

use std::net::{Ipv4Addr, Ipv6Addr};

use bulkhead_agent_protocol::messages as proto;
use libc::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};

use super::netlink::Request;
use crate::failure::Failure;

const IPV4: u8 = libc::AF_INET as u8;
const IPV6: u8 = libc::AF_INET6 as u8;

/// `IFLA_AF_SPEC`, in it `IFLA_INET6_ADDR_GEN_MODE` and its value "none" (linux/if_link.h): the host says what addresses
/// there are, link-local ones too.
const FAMILIES: u16 = 26;
const ADDRESS_GENERATION: u16 = 8;
const NO_GENERATION: u8 = 1;
/// `RTNH_F_ONLINK` (linux/rtnetlink.h): the gateway is a neighbour even if no route says so.
const ONLINK: u8 = 4;
/// `IFNAMSIZ`: the longest name with its terminating zero.
const NAME_SIZE: usize = 16;

/// An Internet address for people.
pub fn internet_address(bytes: &[u8]) -> String {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        Ipv4Addr::from(bytes).to_string()
    } else if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
        Ipv6Addr::from(bytes).to_string()
    } else {
        format!("of {} bytes", bytes.len())
    }
}

/// A route for people.
pub fn describe(route: &proto::Route) -> String {
    if route.destination.is_empty() {
        return "default".to_owned();
    }
    format!("{}/{}", internet_address(&route.destination), route.prefix_length)
}

/// Gives an interface its name, and leaves its addresses to us.
pub fn name_link(index: u32, name: &str) -> Result<Request, Failure> {
    if name.is_empty() || name.len() >= NAME_SIZE {
        return Err(Failure::new("a name has 1 to 15 bytes"));
    }
    let mut request = Request::new(libc::RTM_NEWLINK, 0, &link(index, 0));
    request.attribute(libc::IFLA_IFNAME, &with_zero(name));
    request.nest(FAMILIES, |request| {
        request.nest(IPV6.into(), |request| {
            request.attribute(ADDRESS_GENERATION, &[NO_GENERATION]);
        });
    });
    Ok(request)
}

/// Brings an interface up.
pub fn link_up(index: u32) -> Request {
    Request::new(libc::RTM_NEWLINK, 0, &link(index, libc::IFF_UP as u32))
}

/// `ifinfomsg`; `up` is both the flag and the mask.
fn link(index: u32, up: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&up.to_ne_bytes());
    fixed[12..].copy_from_slice(&up.to_ne_bytes());
    fixed
}

/// Adds an address. Its routes come with the others, and nobody else has it: the host has made sure.
pub fn address(address: &proto::InterfaceAddress, index: u32) -> Result<Request, Failure> {
    let family = family(&address.local)?;
    let [prefix, scope] = bytes([address.prefix_length, address.scope])?;
    let mut fixed = [family, prefix, 0, scope, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let mut request = Request::new(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed);
    request.attribute(libc::IFA_LOCAL, &address.local);
    let peer = if address.peer.is_empty() {
        &address.local
    } else {
        &address.peer
    };
    request.attribute(libc::IFA_ADDRESS, of_family(peer, family)?);
    if !address.broadcast.is_empty() {
        request.attribute(libc::IFA_BROADCAST, of_family(&address.broadcast, family)?);
    }
    if !address.label.is_empty() {
        request.attribute(libc::IFA_LABEL, &with_zero(&address.label));
    }
    request.number(libc::IFA_FLAGS, libc::IFA_F_NODAD | libc::IFA_F_NOPREFIXROUTE);
    // `ifa_cacheinfo`; the kernel reads the first two fields.
    let mut lifetimes = [0; 16];
    lifetimes[..4].copy_from_slice(&address.preferred_seconds.to_ne_bytes());
    lifetimes[4..8].copy_from_slice(&address.valid_seconds.to_ne_bytes());
    request.attribute(libc::IFA_CACHEINFO, &lifetimes);
    Ok(request)
}

/// Adds a route to the main table. `index` knows the interfaces by name.
pub fn route(route: &proto::Route, index: impl Fn(&str) -> Result<u32, Failure>) -> Result<Request, Failure> {
    let family = if route.ipv6 { IPV6 } else { IPV4 };
    let [prefix, tos, protocol, scope, kind] = bytes([
        route.prefix_length,
        route.tos,
        route.protocol,
        route.scope,
        route.type_,
    ])?;
    let table = libc::RT_TABLE_MAIN;
    let mut fixed = [family, prefix, 0, tos, table, protocol, scope, kind, 0, 0, 0, 0];
    if let [hop] = route.hops.as_slice() {
        fixed[8..].copy_from_slice(&u32::from(hop_flags(hop)).to_ne_bytes());
    }
    let mut request = Request::new(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &fixed);
    if !route.destination.is_empty() {
        request.attribute(libc::RTA_DST, of_family(&route.destination, family)?);
    }
    if !route.preferred_source.is_empty() {
        request.attribute(libc::RTA_PREFSRC, of_family(&route.preferred_source, family)?);
    }
    if route.priority != 0 {
        request.number(libc::RTA_PRIORITY, route.priority);
    }
    if !route.metrics.is_empty() {
        request.nest(libc::RTA_METRICS, |request| {
            for metric in &route.metrics {
                // A kind beyond the kernel's is refused by it.
                request.number(u16::try_from(metric.kind).unwrap_or(u16::MAX), metric.value);
            }
        });
    }
    let hops = route.hops.iter().map(|hop| Ok((hop, index(&hop.interface)?)));
    let hops = hops.collect::<Result<Vec<_>, Failure>>()?;
    match hops.as_slice() {
        [] => {}
        [(hop, index)] => {
            request.number(libc::RTA_OIF, *index);
            gateway(&mut request, hop, family);
        }
        several => request.nest(libc::RTA_MULTIPATH, |request| {
            for (hop, index) in several {
                request.with_length(|request| {
                    let weight = u8::try_from(hop.weight.clamp(1, 256) - 1).unwrap_or(u8::MAX);
                    request.bytes(&[hop_flags(hop), weight]);
                    request.bytes(&index.to_ne_bytes());
                    gateway(request, hop, family);
                });
            }
        }),
    }
    Ok(request)
}

fn hop_flags(hop: &proto::NextHop) -> u8 {
    if hop.onlink { ONLINK } else { 0 }
}

/// A gateway of the route's own family, or (`rtvia`) of the other.
fn gateway(request: &mut Request, hop: &proto::NextHop, of_route: u8) {
    match family(&hop.gateway) {
        Ok(family) if family == of_route => request.attribute(libc::RTA_GATEWAY, &hop.gateway),
        Ok(family) => {
            let via = [&u16::from(family).to_ne_bytes(), hop.gateway.as_slice()].concat();
            request.attribute(libc::RTA_VIA, &via);
        }
        // None.
        Err(_) => {}
    }
}

/// Adds a permanent neighbour, or one that is answered for.
pub fn neighbour(neighbour: &proto::Neighbour, index: u32) -> Result<Request, Failure> {
    let family = family(&neighbour.address)?;
    let [flags] = bytes([neighbour.flags])?;
    let [state, _] = libc::NUD_PERMANENT.to_ne_bytes();
    let mut fixed = [family, 0, 0, 0, 0, 0, 0, 0, state, 0, flags, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut request = Request::new(libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &fixed);
    request.attribute(libc::NDA_DST, &neighbour.address);
    if !neighbour.link_address.is_empty() {
        request.attribute(libc::NDA_LLADDR, &neighbour.link_address);
    }
    Ok(request)
}

fn family(address: &[u8]) -> Result<u8, Failure> {
    match address.len() {
        4 => Ok(IPV4),
        16 => Ok(IPV6),
        length => Err(Failure::new(format!(
            "an address has {length} bytes, not 4 or 16"
        ))),
    }
}

fn of_family(address: &[u8], wanted: u8) -> Result<&[u8], Failure> {
    if family(address)? != wanted {
        let address = internet_address(address);
        return Err(Failure::new(format!("address {address} is of the other family")));
    }
    Ok(address)
}

/// Numbers that the kernel takes as bytes.
fn bytes<const N: usize>(numbers: [u32; N]) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        *byte = u8::try_from(number).map_err(|_| Failure::new(format!("{number} is more than 255")))?;
    }
    Ok(bytes)
}

fn with_zero(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests;
