//! A tap for an interface.

use std::{ffi::CStr, fs::File, io, os::fd::AsRawFd};

use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index};

use super::{
    AttachError,
    netlink::Step,
    scan::{Interface, TAP_PREFIX},
};

const TUN: &str = "/dev/net/tun";

/// A tap, which goes when the last descriptor of it is closed.
#[derive(Debug)]
pub struct Tap {
    /// The side of the virtual machine.
    pub file: File,
    /// The number of the interface that is the network's side.
    pub index: u32,
}

/// Makes a tap as large as `interface`, up, and without an address: the kernel would send packets of its own to the guest.
pub async fn create(handle: &Handle, interface: &Interface) -> Result<Tap, AttachError> {
    let tap = open().map_err(|source| AttachError::Tap {
        interface: interface.name.clone(),
        source,
    })?;
    let mut silent = LinkUnspec::new_with_index(tap.index)
        .mtu(interface.mtu.into())
        .arp(false);
    if interface.ipv6.is_some() {
        let no_addresses = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let families = vec![AfSpecUnspec::Inet6(vec![no_addresses])];
        silent = silent.append_extra_attribute(LinkAttribute::AfSpecUnspec(families));
    }
    let step = |what: &'static str| move || format!("interface {}: {what} its tap", interface.name);
    let set = handle.link().set(silent.build());
    set.execute().await.step(step("configure"))?;
    let up = handle
        .link()
        .set(LinkUnspec::new_with_index(tap.index).up().build());
    up.execute().await.step(step("bring up"))?;
    Ok(tap)
}

fn open() -> io::Result<Tap> {
    let file = File::options().read(true).write(true).open(TUN)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    // SAFETY: zero is valid for all fields of `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The kernel puts the first free number in place of the last two bytes.
    for (to, from) in request.ifr_name.iter_mut().zip(TAP_PREFIX.bytes().chain(*b"%d")) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or_default();
    // SAFETY: the kernel reads and writes an `ifreq`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.map(i8::cast_unsigned);
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    let name = name.to_str().map_err(io::Error::other)?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    let index = name_to_index(socket, name)?;
    Ok(Tap { file, index })
}
