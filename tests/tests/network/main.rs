//! A microVM in a network namespace is on the networks that the namespace is on, under the same addresses.

mod namespace;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bulkhead_tests::harness::{Bundle, Container, Host, LIMIT};
use bulkhead_tests::pattern;
use namespace::{Namespace, run};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use serde_json::{Value, json};

/// A large transfer, in bytes.
const LARGE: usize = 256 << 20;
/// A small one, of some segments.
const SMALL: usize = 1 << 20;

/// A host that has had a namespace before: the first one mounts a folder for their names, which stays.
fn host() -> Host {
    drop(Namespace::new());
    Host::new()
}

/// Two namespaces joined by a veth, `eth0` in both: 10.9.0.1 and fd00:9::1 in the first, .2 and ::2 in the second.
fn joined() -> (Namespace, Namespace) {
    let (inside, outside) = (Namespace::new(), Namespace::new());
    inside.ip(&format!(
        "link add eth0 mtu 9000 address 02:00:00:00:0a:01 type veth peer name eth0 mtu 9000 netns {}
         addr add 10.9.0.1/24 dev eth0
         addr add fd00:9::1/64 dev eth0 nodad
         link set eth0 up",
        outside.name()
    ));
    outside.ip("addr add 10.9.0.2/24 dev eth0
         addr add fd00:9::2/64 dev eth0 nodad
         link set eth0 up");
    (inside, outside)
}

/// A bundle that runs the script, with what ping needs; in `namespace`, or in one of its own.
fn bundle(host: &Host, namespace: Option<&Namespace>, script: &str) -> Bundle {
    let edit = |config: &mut Value| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        for set in ["bounding", "effective", "permitted"] {
            let set = config["process"]["capabilities"][set].as_array_mut();
            set.unwrap().push(json!("CAP_NET_RAW"));
        }
        if let Some(namespace) = namespace {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            let network = namespaces.iter_mut().find(|entry| entry["type"] == "network");
            network.unwrap()["path"] = json!(namespace.path());
        }
    };
    let bundle = host.bundle(edit).with_program("workload");
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/ping")).unwrap();
    bundle
}

/// Takes one connection in a namespace.
fn serve(
    namespace: &Namespace,
    address: &'static str,
    work: impl FnOnce(TcpStream) + Send + 'static,
) -> JoinHandle<()> {
    let listener = namespace.within(move || TcpListener::bind(address).unwrap());
    let listener = listener.join().unwrap();
    thread::spawn(move || work(listener.accept().unwrap().0))
}

fn receive(mut stream: TcpStream, bytes: usize) {
    let mut checker = pattern::Checker::new();
    let mut buffer = vec![0; 1 << 18];
    while let count @ 1.. = stream.read(&mut buffer).unwrap() {
        checker.write_all(&buffer[..count]).unwrap();
    }
    assert_eq!(checker.finish(), Ok(bytes));
}

fn send(mut stream: TcpStream, bytes: usize) {
    pattern::write(&mut stream, bytes).unwrap();
}

fn answer_datagrams(namespace: &Namespace, address: &'static str) {
    let socket = namespace.within(move || UdpSocket::bind(address).unwrap());
    let socket = socket.join().unwrap();
    // It ends with the test's process.
    thread::spawn(move || {
        let mut question = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let answer = [b"answer to ", &question[..length]].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// `ping` from a namespace on the host.
fn ping(from: &Namespace, to: &str) {
    run(Command::new("nsenter")
        .arg(format!("--net={}", from.path().display()))
        .args(["busybox", "ping", "-c", "1", "-w", "60", to]));
}

#[test]
fn a_container_talks_to_the_network_of_its_namespace() {
    let host = host();
    let (inside, outside) = joined();
    inside.ip("route add default via 10.9.0.2 mtu 1300
         route add 203.0.113.0/24 via 192.0.2.1 dev eth0 onlink metric 7
         route add blackhole 198.51.100.0/24
         -6 route add default via fd00:9::2 mtu 1400
         neigh add 10.9.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent");
    let script = format!(
        "ip link show eth0; ip addr show eth0; ip route; ip -6 route; ip neigh; \
         set -e; \
         workload mtu 192.0.2.7:9; workload mtu [2001:db8::7]:9; workload mtu 10.9.0.2:9; \
         ping -c 1 -w 60 -s 8000 10.9.0.2; ping -6 -c 1 -w 60 fd00:9::2; \
         workload tcp-send 10.9.0.2:7001 {LARGE}; \
         workload tcp-receive 10.9.0.2:7002 {LARGE}; \
         workload tcp-send [fd00:9::2]:7003 {SMALL}; \
         workload tcp-receive [fd00:9::2]:7004 {SMALL}; \
         workload udp 10.9.0.2:7005; \
         echo served; trap 'exit 143' TERM; while :; do sleep 1; done"
    );
    let servers = [
        serve(&outside, "10.9.0.2:7001", |stream| receive(stream, LARGE)),
        serve(&outside, "10.9.0.2:7002", |stream| send(stream, LARGE)),
        serve(&outside, "[fd00:9::2]:7003", |stream| receive(stream, SMALL)),
        serve(&outside, "[fd00:9::2]:7004", |stream| send(stream, SMALL)),
    ];
    answer_datagrams(&outside, "10.9.0.2:7005");
    let running = host.run(&bundle(&host, Some(&inside), &script)).spawn();
    let said = running.wait_for("served");
    for expected in [
        "mtu 9000",
        "link/ether 02:00:00:00:0a:01",
        "inet 10.9.0.1/24 ",
        "inet6 fd00:9::1/64 ",
        "inet6 fe80::ff:fe00:a01/64 ",
        "default via 10.9.0.2 dev eth0",
        "192.0.2.7:9 mtu 1300",
        "10.9.0.0/24 dev eth0 scope link  src 10.9.0.1",
        "203.0.113.0/24 via 192.0.2.1 dev eth0  metric 7 onlink",
        "blackhole 198.51.100.0/24",
        "default via fd00:9::2 dev eth0",
        "[2001:db8::7]:9 mtu 1400",
        "10.9.0.2:9 mtu 9000",
        "10.9.0.77 dev eth0 lladdr 02:00:00:00:00:77",
        "answer to question",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
    for server in servers {
        server.join().unwrap();
    }
    ping(&outside, "10.9.0.1");
    ping(&outside, "fd00:9::1");
    running.signal(Signal::SIGTERM);
    running.wait().with_code(143);
    inside.assert_clean();
}

/// As docker does it: the interfaces come when the container has been created.
#[test]
fn interfaces_of_many_kinds_come_between_create_and_start() {
    let host = host();
    let outside = Namespace::new();
    let script = "ip -o link; ip -o addr; ping -c 1 -w 60 10.1.0.2; ping -c 1 -w 60 10.2.0.2; ping -c 1 -w 60 -s 1372 10.3.0.2; \
                  echo served; exec sleep 100000";
    let container = host.create(&bundle(&host, None, script));
    let inside = container.pid;
    // The end of a bridge, the end of a VLAN, and a plain one of a small MTU.
    outside.ip(&format!(
        "link add bridge type bridge
         addr add 10.1.0.2/24 dev bridge
         link set bridge up
         link add port type veth peer name eth0 netns {inside}
         link set port master bridge up
         link add trunk type veth peer name trunk-far
         link set trunk up
         link set trunk-far up
         link add link trunk name eth1 type vlan id 10
         link set eth1 netns {inside}
         link add link trunk-far name far type vlan id 10
         addr add 10.2.0.2/24 dev far
         link set far up
         link add plain mtu 1400 type veth peer name eth2 mtu 1400 netns {inside}
         addr add 10.3.0.2/24 dev plain
         link set plain up"
    ));
    for number in 0..3 {
        let addresses = format!(
            "ip addr add 10.{}.0.1/24 dev eth{number} && ip link set eth{number} up",
            number + 1
        );
        run(Command::new("nsenter")
            .arg(format!("--net=/proc/{inside}/ns/net"))
            .args(["sh", "-c", &addresses]));
    }
    container.start();
    let said = wait_for_line(&container, "served");
    assert_eq!(said.matches(" 0% packet loss").count(), 3, "{said}");
    for expected in [
        "eth0    inet 10.1.0.1/24",
        "eth1    inet 10.2.0.1/24",
        "eth2    inet 10.3.0.1/24",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
    let small = |line: &str| line.contains(" eth2: ") && line.contains(" mtu 1400 ");
    assert!(said.lines().any(small), "{said}");
    let _ = container.command("delete").arg("--force").output().success();
}

/// As many as there can be, of kinds that share a parent with others outside of the namespace.
#[test]
fn every_slot_is_filled_and_one_interface_too_many_is_refused() {
    let host = host();
    let (inside, outside) = (Namespace::new(), Namespace::new());
    outside.ip("link add parent0 type veth peer name far0
         link add parent1 type veth peer name far1
         link set parent0 up
         link set parent1 up
         addr add 10.1.0.2/24 dev far0
         link set far0 up
         addr add 10.2.0.2/24 dev far1
         link set far1 up");
    for (number, kind) in [(0, "macvlan mode bridge"), (1, "ipvlan mode l2")] {
        outside.ip(&format!(
            "link add link parent{number} name shared{number} type {kind}
             link set shared{number} netns {}",
            inside.name()
        ));
        inside.ip(&format!(
            "link set shared{number} name eth{number}
             addr add 10.{}.0.1/24 dev eth{number}
             link set eth{number} up",
            number + 1
        ));
    }
    for number in 2..5 {
        let network = number + 1;
        inside.ip(&format!(
            "link add eth{number} type veth peer name far{number} netns {}
             addr add 10.{network}.0.1/24 dev eth{number}
             link set eth{number} up",
            outside.name()
        ));
        outside.ip(&format!(
            "addr add 10.{network}.0.2/24 dev far{number}
             link set far{number} up"
        ));
    }
    let multipath = "route add 203.0.113.0/24 nexthop via 10.3.0.2 weight 1 nexthop via 10.4.0.2 weight 1";
    inside.ip(multipath);
    let script = "for network in 1 2 3 4; do ping -c 1 -w 60 10.$network.0.2; done; \
                  for host in $(seq 64); do ip route get 203.0.113.$host; done; \
                  echo served; exec sleep 100000";
    let container = host.create(&bundle(&host, Some(&inside), script));
    let line = container.command("start").output().refusal();
    assert!(
        line.contains(": a virtual machine can be joined to 4 interfaces, and this is one more: "),
        "{line}"
    );
    inside.ip("link del eth4");
    container.start();
    let said = wait_for_line(&container, "served");
    assert_eq!(said.matches(" 0% packet loss").count(), 4, "{said}");
    for way in ["via 10.3.0.2 dev eth2", "via 10.4.0.2 dev eth3"] {
        assert!(said.contains(way), "{way:?} is not in\n{said}");
    }
    let _ = container.command("delete").arg("--force").output().success();
    inside.assert_clean();
}

/// Waits for a line of a container's output.
#[track_caller]
fn wait_for_line(container: &Container<'_>, line: &str) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let text = container.stdout();
        if text.lines().any(|other| other == line) {
            return text;
        }
        assert!(Instant::now() < end, "{line:?} never came:\n{text}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn without_interfaces_there_is_the_loopback_interface_alone() {
    let host = host();
    let script = "ip -o link | wc -l; ip -o addr show lo | wc -l; ping -c 1 -w 60 127.0.0.1 | tail -n 2";
    let said = host.run(&bundle(&host, None, script)).output().success();
    assert!(
        said.starts_with("1\n2\n1 packets transmitted, 1 packets received"),
        "{said}"
    );
}

#[test]
fn a_killed_monitor_leaves_what_the_next_sandbox_replaces_and_delete_removes() {
    let host = host();
    let (inside, _outside) = joined();
    let script = "ping -c 1 -w 60 10.9.0.2; echo served; exec sleep 100000";
    let bundle = bundle(&host, Some(&inside), script);
    let containers = [host.create(&bundle), host.create(&bundle)];
    for container in &containers {
        container.start();
        assert!(wait_for_line(container, "served").contains(" 0% packet loss"));
        kill(container.pid, Signal::SIGKILL).unwrap();
        assert_eq!(
            container.wait(),
            WaitStatus::Signaled(container.pid, Signal::SIGKILL, false)
        );
        assert!(inside.tc("qdisc show dev eth0").contains("ingress"));
    }
    for container in &containers {
        let _ = container.command("delete").arg("--force").output().success();
    }
    inside.assert_clean();
}

#[test]
fn what_cannot_be_joined_is_refused_by_name_until_it_is_gone() {
    let host = host();
    let (inside, _outside) = joined();
    let container = host.create(&bundle(&host, Some(&inside), "exec sleep 100000"));
    let refused = |expected: &str| {
        let output = container.command("start").output().with_code(1);
        assert!(output.stderr().contains(expected), "{}", output.stderr());
    };
    inside.ip("tuntap add dev tunnel0 mode tun\naddr add 10.9.0.1/24 dev tunnel0\nlink set tunnel0 up");
    refused("interface tunnel0 (tun) is not Ethernet");
    inside.ip("link del tunnel0\nlink add link eth0 name ipvl0 type ipvlan mode l3\nlink set ipvl0 up");
    refused("interface eth0 has addresses of its own and also carries ipvl0");
    inside.ip("link del ipvl0");
    inside.tc("qdisc add dev eth0 clsact");
    refused("interface eth0: it has an ingress or clsact qdisc already");
    inside.tc("qdisc del dev eth0 clsact");
    inside.tc("qdisc add dev eth0 ingress");
    refused("interface eth0: it has an ingress or clsact qdisc already");
    // What is somebody else's is still there.
    assert!(inside.tc("qdisc show dev eth0").contains("ingress"));
    inside.tc("qdisc del dev eth0 ingress");
    container.start();
    let _ = container.command("delete").arg("--force").output().success();
    inside.assert_clean();
}
