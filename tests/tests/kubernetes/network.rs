//! Pods on the network that CNI's plugins have made.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::thread;

use bulkhead_tests::harness::page;
use serde_json::json;

use crate::node::Node;

#[test]
fn pods_reach_each_other_and_the_host_by_their_addresses() {
    let node = Node::new();
    let serving = node.pod(|config| {
        config["port_mappings"] = json!([{"protocol": "TCP", "container_port": 80, "host_port": 8080}]);
    });
    let server = serving
        .run("mkdir /srv; echo hello >/srv/page; httpd -p '[::]:80' -h /srv; echo ready; exec sleep 1000000");
    server.wait_for("ready\n");
    let addresses: Vec<IpAddr> = serving
        .addresses()
        .iter()
        .map(|address| address.parse().expect("an address"))
        .collect();
    assert!(
        matches!(addresses[..], [IpAddr::V4(_), IpAddr::V6(_)]),
        "{addresses:?}"
    );
    for address in &addresses {
        assert!(page((*address, 80)).ends_with("\r\n\r\nhello\n"));
    }
    assert!(page((Ipv4Addr::LOCALHOST, 8080)).ends_with("\r\n\r\nhello\n"));

    // The host's own address on the pods' network is that of the gateway.
    let listener = TcpListener::bind("10.88.0.1:7000").expect("the bridge has it");
    let host = thread::spawn(move || {
        let (mut stream, from) = listener.accept().expect("a pod");
        stream.write_all(b"from the host\n").expect("it reads");
        from.ip()
    });
    let asking = node.pod(|_| ());
    let [v4, v6] = [addresses[0], addresses[1]];
    let client = asking.run(&format!(
        "wget -q -O - http://{v4}/page; wget -q -O - 'http://[{v6}]/page'; nc 10.88.0.1 7000 </dev/null
         cat /sys/class/net/eth0/mtu; ip -4 route show default"
    ));
    assert_eq!(
        client.success(),
        "hello\nhello\nfrom the host\n1500\ndefault via 10.88.0.1 dev eth0 \n"
    );
    let from = host.join().expect("the host's side");
    assert_eq!(from.to_string(), asking.addresses()[0]);
    asking.remove();
    serving.remove();
}

#[test]
fn namespaces_of_the_host_are_refused_by_name() {
    let node = Node::new();
    for (namespace, name) in [("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")] {
        let refused = node.try_pod(|config| {
            config["linux"]["security_context"]["namespace_options"][namespace] = json!("NODE");
        });
        let status = refused.err().expect("the node's namespaces are not the guest's");
        assert!(status.message.contains(name), "{}", status.message);
    }
}
