use proptest::prelude::*;

use super::*;

fn hop(interface: &str, gateway: &[u8]) -> proto::NextHop {
    proto::NextHop {
        interface: interface.to_owned(),
        gateway: gateway.to_vec(),
        weight: 1,
        ..Default::default()
    }
}

fn index(name: &str) -> Result<u32, Failure> {
    match name {
        "eth0" => Ok(2),
        "eth1" => Ok(3),
        _ => Err(Failure::new(format!("no {name}"))),
    }
}

#[test]
fn a_route_with_a_gateway_and_an_mtu() {
    let described = proto::Route {
        destination: vec![10, 0, 0, 0],
        prefix_length: 8,
        type_: 1,
        protocol: 4,
        metrics: vec![proto::RouteMetric {
            kind: 2,
            value: 1400,
            ..Default::default()
        }],
        hops: vec![hop("eth1", &[192, 168, 0, 1])],
        ..Default::default()
    };
    let fixed = [IPV4, 8, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    let mut expected = Request::new(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &fixed);
    expected.attribute(1, &[10, 0, 0, 0]);
    expected.nest(8, |request| request.number(2, 1400));
    expected.number(4, 3);
    expected.attribute(5, &[192, 168, 0, 1]);
    assert_eq!(route(&described, index).unwrap(), expected);
    assert_eq!(describe(&described), "10.0.0.0/8");
}

#[test]
fn a_route_of_several_hops_and_families() {
    let mut second = hop("eth1", &[10, 0, 0, 2]);
    (second.onlink, second.weight) = (true, 5);
    let gateway: Vec<u8> = (0..16).collect();
    let described = proto::Route {
        type_: 1,
        hops: vec![hop("eth0", &gateway), second],
        ..Default::default()
    };
    let fixed = [IPV4, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
    let mut expected = Request::new(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &fixed);
    expected.nest(9, |request| {
        request.bytes(&[8 + 4 + 18 + 2, 0, 0, 0, 2, 0, 0, 0]);
        request.attribute(18, &[&[IPV6, 0][..], &gateway].concat());
        request.bytes(&[8 + 8, 0, ONLINK, 4, 3, 0, 0, 0]);
        request.attribute(5, &[10, 0, 0, 2]);
    });
    assert_eq!(route(&described, index).unwrap(), expected);
    assert_eq!(describe(&described), "default");
}

#[test]
fn what_the_kernel_cannot_be_told_is_refused_in_words() {
    let unknown = proto::Route {
        hops: vec![hop("eth7", &[])],
        ..Default::default()
    };
    assert_eq!(route(&unknown, index).unwrap_err().to_string(), "no eth7");
    let mixed = proto::Route {
        ipv6: true,
        destination: vec![10, 0, 0, 0],
        ..Default::default()
    };
    let refused = route(&mixed, index).unwrap_err().to_string();
    assert_eq!(refused, "address 10.0.0.0 is of the other family");
    for name in ["", "a-name-too-long0"] {
        name_link(2, name).unwrap_err();
    }
    let short = proto::InterfaceAddress {
        local: vec![1, 2, 3],
        ..Default::default()
    };
    let refused = address(&short, 2).unwrap_err().to_string();
    assert_eq!(refused, "an address has 3 bytes, not 4 or 16");
}

proptest! {
    #[test]
    fn anything_makes_a_request_or_is_refused(
        addresses in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..18), 4),
        numbers in proptest::collection::vec(any::<u32>(), 6),
        ipv6: bool,
        hops in 0..4usize,
    ) {
        let address_of = |index: usize| addresses[index].clone();
        let _ = route(&proto::Route {
            ipv6,
            destination: address_of(0),
            prefix_length: numbers[0],
            type_: numbers[1],
            preferred_source: address_of(1),
            hops: vec![proto::NextHop {
                interface: "eth0".to_owned(),
                gateway: address_of(2),
                weight: numbers[2],
                ..Default::default()
            }; hops],
            ..Default::default()
        }, index);
        let _ = address(&proto::InterfaceAddress {
            local: address_of(0),
            peer: address_of(1),
            broadcast: address_of(2),
            prefix_length: numbers[3],
            ..Default::default()
        }, numbers[4]);
        let _ = neighbour(&proto::Neighbour {
            address: address_of(0),
            link_address: address_of(3),
            flags: numbers[5],
            ..Default::default()
        }, 2);
    }
}
