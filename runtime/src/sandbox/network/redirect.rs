//! The pair of redirects that makes an interface and a tap one: what arrives at either leaves by the other.

use futures_util::StreamExt;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        tc::{
            TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption,
            TcActionOption, TcActionType, TcAttribute, TcFilterMatchAllOption, TcHandle, TcMessage, TcMirror,
            TcMirrorActionType, TcOption,
        },
    },
};

use super::{
    AttachError,
    netlink::{self, NetlinkError, Step},
    scan::{self, Interface},
    tap::Tap,
};

/// By this the redirects of ours are told from others' (`TCA_ACT_COOKIE`).
const COOKIE: &[u8] = b"bulkhead";
/// `ETH_P_ALL` in network order.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();
const FIRST: u32 = 1;

/// Joins an interface and its tap.
pub async fn join(handle: &Handle, interface: &Interface, tap: &Tap) -> Result<(), AttachError> {
    let step = |what: &'static str| move || format!("interface {}: {what}", interface.name);
    match add_qdisc(handle, interface.index).await {
        // Left behind by a sandbox that was killed.
        Err(_) if is_stale(handle, interface.index).await? => {
            remove_qdisc(handle, interface.index)
                .await
                .step(step("remove the redirect of a sandbox that has gone"))?;
            add_qdisc(handle, interface.index).await
        }
        added => added,
    }
    .step(step("add an ingress qdisc"))
    .map_err(|error| match error {
        error if error.is_exists() => AttachError::Occupied(interface.name.clone()),
        error => error.into(),
    })?;
    add_qdisc(handle, tap.index)
        .await
        .step(step("add an ingress qdisc to its tap"))?;
    redirect(handle, interface.index, tap.index)
        .await
        .step(step("redirect packets to the virtual machine"))?;
    redirect(handle, tap.index, interface.index)
        .await
        .step(step("redirect packets from the virtual machine"))?;
    Ok(())
}

/// Removes the redirects of interfaces of the namespace whose taps have gone, with their VMMs.
pub async fn remove_stale(handle: &Handle) -> Result<(), AttachError> {
    for link in netlink::links(handle).await? {
        let name = scan::name(&link);
        let index = link.header.index;
        if is_stale(handle, index).await? {
            remove_qdisc(handle, index)
                .await
                .step(|| format!("interface {name}: remove its ingress qdisc"))?;
        }
    }
    Ok(())
}

async fn add_qdisc(handle: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    handle.qdisc().add(signed(index)).ingress().execute().await
}

async fn remove_qdisc(handle: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    let mut request = handle.qdisc().del(signed(index));
    request.message_mut().header.parent = TcHandle::INGRESS;
    request.execute().await
}

/// Whether an interface has a redirect of ours to a tap that has gone.
async fn is_stale(handle: &Handle, index: u32) -> Result<bool, NetlinkError> {
    Ok(target(handle, index).await? == Some(0))
}

/// Where a redirect of ours leads to, if the interface has one: 0 if that has gone.
async fn target(handle: &Handle, index: u32) -> Result<Option<u32>, NetlinkError> {
    let mut filters = handle.traffic_filter(signed(index));
    let filters = filters.get().ingress().execute();
    let filters = netlink::all(filters, "packet filters").await?;
    Ok(filters.iter().find_map(our_target))
}

fn our_target(filter: &TcMessage) -> Option<u32> {
    let actions = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = actions.flatten().filter_map(|option| match option {
        TcOption::MatchAll(TcFilterMatchAllOption::Action(actions)) => Some(actions),
        _ => None,
    });
    let mut ours = actions.flatten().filter(|action| {
        let cookie = TcActionAttribute::Cookie(COOKIE.to_vec());
        action.attributes.contains(&cookie)
    });
    ours.next()?.attributes.iter().find_map(|attribute| {
        let TcActionAttribute::Options(options) = attribute else {
            return None;
        };
        options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
            _ => None,
        })
    })
}

/// Sends all that arrives at `from` out by `to`.
async fn redirect(handle: &Handle, from: u32, to: u32) -> Result<(), rtnetlink::Error> {
    let message = RouteNetlinkMessage::NewTrafficFilter(filter(from, to));
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

fn filter(from: u32, to: u32) -> TcMessage {
    let mut mirror = TcMirror::default();
    mirror.generic = TcActionGeneric::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
        TcActionAttribute::Cookie(COOKIE.to_vec()),
    ];
    let mut message = TcMessage::with_index(signed(from));
    message.header.parent = TcHandle::from(0xffff_0000);
    message.header.info = FIRST << 16 | u32::from(ALL_PROTOCOLS);
    message.attributes = vec![
        TcAttribute::Kind("matchall".to_owned()),
        TcAttribute::Options(vec![TcOption::MatchAll(TcFilterMatchAllOption::Action(vec![
            action,
        ]))]),
    ];
    message
}

/// An interface's number as traffic control has it.
fn signed(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}
