//! Joining the guest to networks: a device that the VMM has put into one of its slots becomes an interface with the name,
//! addresses, routes and neighbours that the host's has.

mod device;
mod messages;
mod netlink;

use std::{fmt::Display, fs};

use bulkhead_agent_protocol::messages as proto;
use rustix::net::netdevice::name_to_index;

use self::netlink::{Netlink, Request};
use crate::failure::{Failure, Step};

/// Does what the request says.
///
/// # Errors
/// Names the interface and the step. What came before stays.
pub fn configure(request: &proto::ConfigureNetworkRequest) -> Result<(), Failure> {
    let netlink = Netlink::open().step(|| "open a netlink socket")?;
    for interface in &request.interfaces {
        configure_interface(&netlink, interface)
            .map_err(|failure| Failure::new(format!("interface {}: {failure}", interface.name)))?;
    }
    // Gateways are reached by routes without one.
    let has_gateway = |route: &&proto::Route| route.hops.iter().any(|hop| !hop.gateway.is_empty());
    let direct = request.routes.iter().filter(|route| !has_gateway(route));
    for route in direct.chain(request.routes.iter().filter(has_gateway)) {
        let name = || format!("route {}", messages::describe(route));
        send(
            &netlink,
            messages::route(route, |name| index(&netlink, name)),
            name,
        )?;
    }
    for neighbour in &request.neighbours {
        let name = || {
            let address = messages::internet_address(&neighbour.address);
            format!("neighbour {address} on {}", neighbour.interface)
        };
        let request =
            index(&netlink, &neighbour.interface).and_then(|index| messages::neighbour(neighbour, index));
        send(&netlink, request, name)?;
    }
    Ok(())
}

fn configure_interface(netlink: &Netlink, interface: &proto::NetworkInterface) -> Result<(), Failure> {
    let first_name = device::bind(interface.slot)?;
    let index = index(netlink, &first_name)?;
    send(
        netlink,
        messages::name_link(index, &interface.name),
        || "set its name",
    )?;
    set_ipv6(interface)?;
    if interface.up {
        send(netlink, Ok(messages::link_up(index)), || "bring it up")?;
    }
    for address in &interface.addresses {
        let name = || format!("add address {}", messages::internet_address(&address.local));
        send(netlink, messages::address(address, index), name)?;
    }
    Ok(())
}

/// Sets what differs from the kernel's defaults, which a kernel without IPv6 has not.
fn set_ipv6(interface: &proto::NetworkInterface) -> Result<(), Failure> {
    for (setting, value, default) in [
        ("disable_ipv6", i32::from(interface.ipv6_disabled), 0),
        ("accept_ra", interface.accept_ra, 1),
        ("autoconf", interface.autoconf, 1),
    ] {
        if value != default {
            let file = format!("/proc/sys/net/ipv6/conf/{}/{setting}", interface.name);
            fs::write(&file, value.to_string()).step(|| format!("write {file}"))?;
        }
    }
    Ok(())
}

fn index(netlink: &Netlink, name: &str) -> Result<u32, Failure> {
    name_to_index(netlink, name).step(|| format!("interface {name}"))
}

fn send<S: Display>(
    netlink: &Netlink,
    request: Result<Request, Failure>,
    step: impl Fn() -> S,
) -> Result<(), Failure> {
    let request = request.map_err(|failure| Failure::new(format!("{}: {failure}", step())))?;
    netlink.send(request).step(step)
}
