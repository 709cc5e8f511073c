use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use serde_json::json;
use tempfile::{NamedTempFile, TempDir};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::ATTACHED_DISKS;
use super::*;
use crate::config::MemoryBacking;
use crate::console::ConsoleWriter;
use crate::devices::mmio::MmioBus;
use crate::devices::ports::Ports;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::blk::Block;
use crate::devices::virtio::mem::{Mem, Region, Target};
use crate::devices::virtio::mock_driver::MockDriver;
use crate::devices::virtio::net::Net;
use crate::devices::{reset, serial};
use crate::event_loop::{EventLoop, LoopHandle};
use crate::memory;
use crate::vcpu::Buses;

/// A server for a guest without processors, on a thread of its own.
struct Server {
    path: PathBuf,
    end: End,
    _directory: TempDir,
}

fn start() -> Server {
    start_with(Box::new(|_| {
        Err(DeviceError::NoneFree {
            kind: "memory device",
            count: 0,
        })
    }))
}

fn start_with(plug_memory: PlugMemory) -> Server {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let (console, end) = (Console::default(), End::new().unwrap());
    ConsoleWriter::new(console.clone(), None)
        .write_all(b"one\ntwo\n")
        .unwrap();
    let their_end = end.clone();
    thread::spawn(move || {
        let memory = memory::allocate(&[(GuestAddress(0), 1 << 20)], MemoryBacking::default()).unwrap();
        let serial = serial::new(
            EventFd::new(0).unwrap(),
            ConsoleWriter::new(console.clone(), None),
        );
        let buses = Arc::new(Buses {
            ports: Ports::new(serial, reset::new(memory, console.clone(), their_end.clone())),
            mmio: MmioBus::new(0, Vec::new()),
        });
        let vcpus = Vcpus::new(
            Box::new(|_| unreachable!("none can be made")),
            0,
            buses,
            their_end.clone(),
        )
        .unwrap();
        let mut event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        let guest = Guest {
            vcpus,
            console,
            end: their_end,
            hotplug: Box::new(OneSlot {
                handle,
                disk: None,
                plug_memory,
            }),
            memory: Growth::new(128, 192, 1 << 31).unwrap(),
            started: Instant::now(),
        };
        event_loop.add(Box::new(ControlServer::new(listener.into(), guest).unwrap()));
        loop {
            event_loop.turn().unwrap();
        }
    });
    Server {
        path,
        end,
        _directory: directory,
    }
}

/// Slots of no virtual machine: one for a disk, none for a network device.
struct OneSlot {
    handle: LoopHandle,
    disk: Option<String>,
    plug_memory: PlugMemory,
}

type PlugMemory = Box<dyn FnMut(EventFd) -> Result<(usize, Target), DeviceError> + Send>;

impl Hotplug for OneSlot {
    fn attach_network(&mut self, tap: OwnedFd, mac: MacAddress, mtu: u16) -> Result<usize, DeviceError> {
        Net::new(tap, mac, mtu, self.handle.clone())?;
        Err(DeviceError::NoneFree {
            kind: "network device",
            count: 0,
        })
    }

    fn plug_memory(&mut self, changed: EventFd) -> Result<(usize, Target), DeviceError> {
        (self.plug_memory)(changed)
    }

    fn attach_disk(&mut self, id: &str, image: File, read_only: bool) -> Result<usize, DeviceError> {
        Block::new(id, image, read_only)?;
        self.disk = Some(id.to_owned());
        Ok(7)
    }

    fn detach_disk(&mut self, id: &str) -> Result<(), DeviceError> {
        let is_there = self.disk.take_if(|disk| disk == id).is_some();
        is_there
            .then_some(())
            .ok_or_else(|| DeviceError::NoDisk(id.to_owned()))
    }

    fn attached_disks(&self) -> Vec<String> {
        self.disk.iter().cloned().collect()
    }
}

impl Server {
    fn connect(&self) -> Connection {
        Connection(BufReader::new(UnixStream::connect(&self.path).unwrap()))
    }
}

struct Connection(BufReader<UnixStream>);

impl Connection {
    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The next response, or nothing when the server has closed the connection.
    fn response(&mut self) -> Option<Response> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    fn ask(&mut self, request: &Request) -> Response {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.send(&line);
        self.response().unwrap()
    }

    fn ask_with(&mut self, request: &Request, file: &NamedTempFile) -> Response {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.0
            .get_ref()
            .send_with_fd(&line[..], file.as_raw_fd())
            .unwrap();
        self.response().unwrap()
    }
}

fn message(response: Option<Response>) -> String {
    match response {
        Some(Response::Error { message }) => message,
        other => panic!("not an error: {other:?}"),
    }
}

fn attach() -> Request {
    Request::AttachBlock {
        id: "disk".to_owned(),
        read_only: true,
    }
}

#[test]
fn requests_are_answered_in_their_order() {
    let server = start();
    let mut client = server.connect();
    client.send(b"{\"request\":\"pause\"}\n{\"request\":\"console\"}\n{\"request\":\"res");
    assert_eq!(client.response(), Some(Response::Done));
    let lines = vec!["one".to_owned(), "two".to_owned()];
    assert_eq!(client.response(), Some(Response::Console { lines }));
    client.send(b"ume\"}\n");
    assert_eq!(client.response(), Some(Response::Done));
    assert!(
        matches!(client.ask(&Request::Metrics {}), Response::Metrics(map) if map.contains_key("uptime_us"))
    );
}

#[test]
fn what_is_not_a_request_is_an_error_and_no_more() {
    let server = start();
    let mut client = server.connect();
    for bad in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"request\":\"explode\"}\n",
        b"{\"request\":\"pause\",\"x\":1}\n",
        b"{\"request\":\"resume\",\"x\":1}\n",
        b"{\"request\":\"stop\",\"x\":1}\n",
        b"{\"request\":\"metrics\",\"x\":1}\n",
        b"{\"request\":\"console\",\"x\":1}\n",
        b"{\"request\":\"memory\",\"x\":1}\n",
        b"{\"request\":\"add_memory\",\"mib\":-1}\n",
        b"{\"request\":\"attach_block\",\"id\":\"disk\",\"read_only\":true,\"x\":1}\n",
        b"[[[[[[[[\n",
    ] {
        client.send(bad);
        assert!(message(client.response()).starts_with("not a request: "));
    }
    assert_eq!(client.ask(&Request::Pause {}), Response::Done);
}

#[test]
fn a_request_that_is_too_long_is_dropped_to_its_end() {
    let server = start();
    let mut client = server.connect();
    client.send(&vec![b'x'; 3 * LONGEST_REQUEST]);
    assert!(message(client.response()).contains("longer than 4096 bytes"));
    client.send(b"still the same line\n{\"request\":\"resume\"}\n");
    assert_eq!(client.response(), Some(Response::Done));
    let mut longest = vec![b' '; LONGEST_REQUEST - 20];
    longest.extend_from_slice(b"{\"request\":\"pause\"} \n");
    client.send(&longest);
    assert_eq!(client.response(), Some(Response::Done));
}

#[test]
fn an_image_comes_with_its_request() {
    let server = start();
    let mut client = server.connect();
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    assert!(message(Some(client.ask(&attach()))).contains("no descriptor"));
    // A descriptor that came with another request does not stay for the next.
    assert_eq!(client.ask_with(&Request::Resume {}, &image), Response::Done);
    assert!(message(Some(client.ask(&attach()))).contains("no descriptor"));
    let detach = Request::DetachBlock {
        id: "disk".to_owned(),
    };
    assert!(message(Some(client.ask(&detach))).contains("no disk \"disk\""));
    assert_eq!(client.ask_with(&attach(), &image), Response::Attached { slot: 7 });
    let disks = |client: &mut Connection| match client.ask(&Request::Metrics {}) {
        Response::Metrics(metrics) => metrics[ATTACHED_DISKS].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(disks(&mut client), json!(["disk"]));
    assert_eq!(client.ask(&detach), Response::Done);
    assert_eq!(disks(&mut client), json!([]));
    image.as_file().set_len(0).unwrap();
    assert!(message(Some(client.ask_with(&attach(), &image))).contains("smaller than one sector"));
}

#[test]
fn a_network_device_wants_a_tap() {
    let server = start();
    let mut client = server.connect();
    let attach = |mtu| Request::AttachNetwork {
        mac: "02:00:00:00:00:01".parse().unwrap(),
        mtu,
    };
    assert!(message(Some(client.ask(&attach(1500)))).contains("no descriptor"));
    let file = NamedTempFile::new().unwrap();
    assert!(message(Some(client.ask_with(&attach(67), &file))).contains("the MTU is 67"));
    assert!(message(Some(client.ask_with(&attach(1500), &file))).contains("not that of a tap"));
    client.send(b"{\"request\":\"attach_network\",\"mac\":\"ff:ff:ff:ff:ff:ff\",\"mtu\":1500}\n");
    assert!(message(client.response()).contains("is not the address of one Ethernet interface"));
}

/// What is said of memory, in MiB, and the slot.
fn memory_is(present_mib: u32, wanted_mib: u32, slot: Option<usize>) -> Response {
    Response::Memory {
        present_mib,
        wanted_mib,
        most_mib: 192,
        slot,
    }
}

#[test]
fn memory_comes_when_the_guest_takes_it() {
    let driver = Arc::new(MockDriver::new(1));
    let activation = driver.activation();
    let mut activation = Some(activation);
    let server = start_with(Box::new(move |changed| {
        let ram = memory::allocate(&[(GuestAddress(0), 1 << 20)], MemoryBacking::default()).unwrap();
        let memory = memory::reserve(&ram, GuestAddress(1 << 32), 1 << 31, true).unwrap();
        let region = Region::new(
            memory,
            GuestAddress(1 << 32),
            1 << 31,
            false,
            Box::new(|_, _| Ok(())),
        );
        let mut device = Mem::new(region, changed, EventLoop::on_its_own_thread());
        device.activate(activation.take().expect("one device")).unwrap();
        Ok((7, device.target()))
    }));
    let (mut client, mut other) = (server.connect(), server.connect());
    assert_eq!(client.ask(&Request::Memory {}), memory_is(128, 128, None));
    assert_eq!(
        client.ask(&Request::AwaitMemory { known_mib: 500 }),
        memory_is(128, 128, None)
    );
    assert_eq!(
        client.ask(&Request::AddMemory { mib: 128 }),
        memory_is(128, 128, None)
    );
    assert_eq!(
        client.ask(&Request::AddMemory { mib: 131 }),
        memory_is(128, 132, Some(7))
    );
    assert_eq!(
        client.ask(&Request::AddMemory { mib: 5 }),
        memory_is(128, 132, Some(7))
    );

    client.send(b"{\"request\":\"await_memory\",\"known_mib\":128}\n{\"request\":\"memory\"}\n");
    assert_eq!(other.ask(&Request::Resume {}), Response::Done);
    let mut plug = [0; 24];
    plug[8..18].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0, 1, 0]);
    driver.submit(0, &[&plug], &[10]);
    assert_eq!(client.response(), Some(memory_is(130, 132, Some(7))));
    assert_eq!(client.response(), Some(memory_is(130, 132, Some(7))));
    // Who knows of that waits for more; who does not is answered at once.
    other.send(b"{\"request\":\"await_memory\",\"known_mib\":130}\n");
    assert_eq!(
        client.ask(&Request::AwaitMemory { known_mib: 129 }),
        memory_is(130, 132, Some(7))
    );
    plug[10] = 0x20;
    driver.submit(0, &[&plug], &[10]);
    assert_eq!(other.response(), Some(memory_is(132, 132, Some(7))));
    assert_eq!(
        other.ask(&Request::AwaitMemory { known_mib: 132 }),
        memory_is(132, 132, Some(7))
    );
    assert_eq!(
        other.ask(&Request::AddMemory { mib: u32::MAX }),
        memory_is(132, 192, Some(7))
    );
}

#[test]
fn memory_for_which_there_is_no_slot_is_refused() {
    let server = start();
    let mut client = server.connect();
    assert!(message(Some(client.ask(&Request::AddMemory { mib: 130 }))).contains("no slot is free"));
    assert_eq!(client.ask(&Request::Memory {}), memory_is(128, 128, None));
}

#[test]
fn stop_ends_the_guest() {
    let server = start();
    assert_eq!(server.connect().ask(&Request::Stop {}), Response::Done);
    assert_eq!(server.end.outcome(), Some(&Outcome::Stopped));
}

#[test]
fn clients_come_and_go() {
    let server = start();
    for _ in 0..3 * MOST_CLIENTS {
        let mut client = server.connect();
        client.send(b"{\"request\":\"pau");
    }
    let mut here: Vec<_> = (0..MOST_CLIENTS).map(|_| server.connect()).collect();
    for client in &mut here {
        assert_eq!(client.ask(&Request::Resume {}), Response::Done);
    }
    // One too many is served when another leaves.
    let mut waiting = server.connect();
    waiting.send(b"{\"request\":\"pause\"}\n");
    drop(here.pop());
    assert_eq!(waiting.response(), Some(Response::Done));
    // A client may stop sending and still read what it asked for.
    let mut last = here.pop().unwrap();
    last.send(b"{\"request\":\"resume\"}\n");
    last.0.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(last.response(), Some(Response::Done));
    assert_eq!(last.response(), None);
}
