//! A microVM in the test's own hands: started as the runtime starts one, and asked directly.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::messages::{
    CreateContainerRequest, Disk, StartContainerRequest, Stdio, Storage, WaitRequest, WaitResponse,
};
use bulkhead_agent_protocol::{AGENT_PORT, AgentClient, STREAM_PORT};
use bulkhead_tests::harness::{self, Host};
use bulkhead_vmm::config::MemoryBacking;
use bulkhead_vmm::control::{Request, Response};
use bulkhead_vmm::launch::{Launch, Vmm, Vsock};
use bulkhead_vmm::report::Report;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde_json::Value;
use ttrpc::r#async::{Client, transport::Socket};
use ttrpc::context::Context;

/// Talk on the serial port, and little; the VMM adds how to reset.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4";

/// A running microVM.
pub struct MicroVm {
    vmm: Vmm,
    control: BufReader<UnixStream>,
    vsock: PathBuf,
    uplink: OwnedFd,
}

impl MicroVm {
    /// Starts one with the guest under test, one processor and 128 MiB, after `change`. `root` is the VMM's root: the
    /// folder that is shared, or an empty one.
    pub fn start(host: &Host, root: &Path, change: impl FnOnce(&mut Launch)) -> Self {
        let listen = |name: &str| {
            let path = host.folder().join(name);
            let listener = UnixListener::bind(&path).unwrap();
            (path, OwnedFd::from(listener))
        };
        let (control, control_listener) = listen("control");
        let (vsock, vsock_listener) = listen("vsock");
        let (uplink, their_uplink) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let (binary, root, stderr) = (open(&harness::vmm()), open(root), io::stderr());
        let mut launch = Launch {
            binary: &binary,
            directory: root.as_fd(),
            cgroup: None,
            stderr: stderr.as_fd(),
            kvm: File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .unwrap()
                .into(),
            vcpus: 1,
            max_vcpus: None,
            memory_mib: 128,
            max_memory_mib: None,
            memory_backing: MemoryBacking::default(),
            kernel: open(&harness::kernel()).into(),
            initramfs: Some(open(&harness::initramfs()).into()),
            command_line: COMMAND_LINE.to_owned(),
            vsock: Some(Vsock {
                cid: 3,
                listener: vsock_listener,
                uplink: Some(their_uplink),
            }),
            filesystem: None,
            blocks: Vec::new(),
            rng: true,
            page_reporting: false,
            network_slots: 0,
            disk_slots: 0,
            console: None,
            control: Some(control_listener),
        };
        change(&mut launch);
        Self {
            vmm: launch.start().unwrap(),
            control: BufReader::new(UnixStream::connect(control).unwrap()),
            vsock,
            uplink,
        }
    }

    /// Asks the VMM.
    pub fn ask(&mut self, request: &Request) -> Response {
        self.ask_with(request, &[])
    }

    /// Asks the VMM, and hands it a file.
    pub fn ask_with_file(&mut self, request: &Request, file: &File) -> Response {
        self.ask_with(request, &[ControlMessage::ScmRights(&[file.as_raw_fd()])])
    }

    fn ask_with(&mut self, request: &Request, attached: &[ControlMessage]) -> Response {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        let control = self.control.get_ref().as_raw_fd();
        let sent = sendmsg::<()>(control, &[IoSlice::new(&line)], attached, MsgFlags::empty(), None);
        assert_eq!(sent, Ok(line.len()));
        let mut answer = String::new();
        self.control.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Waits for the next connection that the guest opens to the host; gives the port.
    pub fn accept(&self) -> (u32, UnixStream) {
        let mut port = [0; 4];
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut bytes = [IoSliceMut::new(&mut port)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.uplink.as_raw_fd(), &mut bytes, Some(&mut space), flags).unwrap();
        assert_eq!(message.bytes, 4, "the VMM has ended");
        let Some(ControlMessageOwned::ScmRights(descriptors)) = message.cmsgs().unwrap().next() else {
            panic!("no descriptor");
        };
        // SAFETY: the kernel just made it for this process.
        let connection = unsafe { OwnedFd::from_raw_fd(descriptors[0]) };
        (u32::from_le_bytes(port), connection.into())
    }

    /// Connects to a port of the guest.
    pub fn connect(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(&self.vsock).unwrap();
        writeln!(stream, "CONNECT {port}").unwrap();
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"OK "), "{answer:?}");
        stream
    }

    /// Opens a stream for a process to be.
    pub fn stream(&self, name: &str) -> UnixStream {
        let mut stream = self.connect(STREAM_PORT);
        writeln!(stream, "{name}").unwrap();
        stream
    }

    /// Waits until the agent is ready.
    pub fn agent(&self) -> Agent {
        let (port, connection) = self.accept();
        assert_eq!(port, AGENT_PORT);
        connection.set_nonblocking(true).unwrap();
        let connection = tokio::net::UnixStream::from_std(connection).unwrap();
        Agent(AgentClient::new(Client::new(Socket::new(connection))))
    }

    /// Starts a container. Gives its output.
    pub async fn run(&self, agent: &Agent, id: &str, spec: &Value, storage: Storage) -> UnixStream {
        self.run_with_disks(agent, id, spec, storage, Vec::new()).await
    }

    /// The same, of a container that has disks.
    pub async fn run_with_disks(
        &self,
        agent: &Agent,
        id: &str,
        spec: &Value,
        storage: Storage,
        disks: Vec<Disk>,
    ) -> UnixStream {
        let stdout = self.stream(&format!("{id}.stdout"));
        let stdio = Stdio {
            stdout: format!("{id}.stdout"),
            ..Stdio::default()
        };
        let create = CreateContainerRequest {
            container_id: id.to_owned(),
            spec: serde_json::to_vec(spec).unwrap(),
            storages: vec![storage],
            disks,
            stdio: Some(stdio).into(),
            ..CreateContainerRequest::default()
        };
        agent
            .0
            .create_container(Context::default(), &create)
            .await
            .unwrap();
        let start = StartContainerRequest {
            container_id: id.to_owned(),
            ..StartContainerRequest::default()
        };
        agent.0.start_container(Context::default(), &start).await.unwrap();
        stdout
    }

    /// Waits for its end: what it reports, and its exit status.
    pub fn end(mut self) -> (Report, i32) {
        let report = self.vmm.read_report().unwrap().expect("a report");
        match waitid(Id::PIDFd(self.vmm.pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, status)) => (report, status),
            other => panic!("{other:?} after {report:?}"),
        }
    }
}

/// A connection to the guest's agent.
pub struct Agent(pub AgentClient);

impl Agent {
    /// Waits for the end of a container.
    pub async fn wait(&self, id: &str) -> WaitResponse {
        let request = WaitRequest {
            container_id: id.to_owned(),
            ..WaitRequest::default()
        };
        self.0.wait(Context::default(), &request).await.unwrap()
    }
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
