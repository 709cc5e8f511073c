//! Which interfaces of a namespace the guest is joined to.
//!
//! All that are up or have an address, but for the loopback interface, of which the guest has its own. One that only
//! carries others of the same namespace (the ports of a bridge or a bond, what a VLAN or a macvlan is on) is left to
//! those. What cannot be joined and is not idle is refused by name: to leave it out would leave packets out.

use std::collections::HashSet;

use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoIpVlan, InfoKind, IpVlanMode, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage,
};

use super::netlink::Dumps;

/// What the names of our taps begin with.
pub const TAP_PREFIX: &str = "bulkhead";

/// An interface that the guest is joined to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its MTU; what is more than Ethernet can have is that.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// How it gets IPv6 addresses; absent without IPv6.
    pub ipv6: Option<Ipv6>,
}

/// Sysctls of the same names (`net.ipv6.conf`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    /// Whether it is switched off.
    pub disabled: bool,
    /// Whether it listens to routers.
    pub accept_ra: i32,
    /// Whether it makes addresses of what they say.
    pub autoconf: i32,
}

/// An interface cannot be joined to a virtual machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its packets have no Ethernet header.
    #[error(
        "interface {name} ({kind}) is not Ethernet, and a virtual machine can be joined to Ethernet interfaces only: \
         take it down and remove its addresses, or make the tunnel inside of the container"
    )]
    NotEthernet {
        /// The interface.
        name: String,
        /// Its kind, as the kernel calls it.
        kind: String,
    },
    /// It answers for addresses itself.
    #[error(
        "interface {0} is an ipvlan in mode l3 or l3s, which takes no ARP and thus no virtual machine: use mode l2, or a \
         macvlan"
    )]
    IpVlan(String),
    /// Its packets are both its own and of another interface.
    #[error(
        "interface {name} has addresses of its own and also carries {other}: packets can be passed to the virtual machine \
         from one of the two only"
    )]
    Carries {
        /// The interface.
        name: String,
        /// What is on it.
        other: String,
    },
}

/// The interfaces that the guest is joined to, by their numbers.
pub fn select(dumps: &Dumps) -> Result<Vec<Interface>, Refusal> {
    let with_addresses: HashSet<u32> = dumps
        .addresses
        .iter()
        .map(|address| address.header.index)
        .collect();
    let mut interfaces = Vec::new();
    for link in &dumps.links {
        let name = name(link);
        let has_addresses = with_addresses.contains(&link.header.index);
        let idle = !link.header.flags.contains(LinkFlags::Up) && !has_addresses;
        let ours = kind(link) == Some(&InfoKind::Tun) && name.starts_with(TAP_PREFIX);
        if link.header.flags.contains(LinkFlags::Loopback) || ours || idle {
            continue;
        }
        if let Some(other) = dumps.links.iter().find(|other| carries(link, other)) {
            // The kernel gives every interface an address of its own accord, by which nobody finds it.
            if has_more_than_link_local(dumps, link.header.index) {
                return Err(Refusal::Carries {
                    name,
                    other: self::name(other),
                });
            }
            continue;
        }
        interfaces.push(interface(link, name)?);
    }
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

fn interface(link: &LinkMessage, name: String) -> Result<Interface, Refusal> {
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => <[u8; 6]>::try_from(address.as_slice()).ok(),
        _ => None,
    });
    let Some(mac) = mac.filter(|_| link.header.link_layer_type == LinkLayerType::Ether) else {
        let kind = kind(link).map_or_else(
            || format!("{:?}", link.header.link_layer_type),
            ToString::to_string,
        );
        return Err(Refusal::NotEthernet { name, kind });
    };
    if is_ipvlan_without_arp(link) {
        return Err(Refusal::IpVlan(name));
    }
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
        _ => None,
    });
    Ok(Interface {
        index: link.header.index,
        name,
        mac,
        mtu: mtu.unwrap_or(1500),
        up: link.header.flags.contains(LinkFlags::Up),
        ipv6: ipv6(link),
    })
}

/// Whether what arrives at `link` is meant for `other`.
fn carries(link: &LinkMessage, other: &LinkMessage) -> bool {
    let mut below = None;
    let mut elsewhere = false;
    for attribute in &other.attributes {
        match attribute {
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    // What a veth names there is its peer.
    let rests = below == Some(link.header.index) && !elsewhere && kind(other) != Some(&InfoKind::Veth);
    let controller = LinkAttribute::Controller(other.header.index);
    link.header.index != other.header.index && (rests || link.attributes.contains(&controller))
}

fn has_more_than_link_local(dumps: &Dumps, index: u32) -> bool {
    use rtnetlink::packet_route::address::AddressScope;
    dumps
        .addresses
        .iter()
        .any(|address| address.header.index == index && address.header.scope != AddressScope::Link)
}

fn is_ipvlan_without_arp(link: &LinkMessage) -> bool {
    info(link).any(|info| match info {
        LinkInfo::Data(InfoData::IpVlan(options)) => options
            .iter()
            .any(|option| matches!(option, InfoIpVlan::Mode(mode) if *mode != IpVlanMode::L2)),
        _ => false,
    })
}

fn ipv6(link: &LinkMessage) -> Option<Ipv6> {
    let families = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(families) => Some(families),
        _ => None,
    })?;
    let settings = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(settings) => Some(settings),
        _ => None,
    })?;
    settings.iter().find_map(|setting| match setting {
        AfSpecInet6::DevConf(settings) => Some(Ipv6 {
            disabled: settings.disable_ipv6 != 0,
            accept_ra: settings.accept_ra,
            autoconf: settings.autoconf,
        }),
        _ => None,
    })
}

fn info(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => Some(info),
            _ => None,
        })
        .flatten()
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    info(link).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// An interface's name.
pub fn name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| format!("number {}", link.header.index))
}

#[cfg(test)]
mod tests;
