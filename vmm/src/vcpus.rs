//! All virtual processors of the guest together. Those that the guest does not start with are made when they are asked
//! for: until then they are names in its tables, and cost the host nothing.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;

use crate::end::End;
use crate::kick;
use crate::kvm::KvmError;
use crate::pause::Gate;
use crate::vcpu::{Buses, Exits, Vcpu};

/// Makes the virtual processor of that number.
pub type MakeVcpu = Box<dyn Fn(u8) -> Result<VcpuFd, KvmError> + Send>;

/// Virtual processors could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused one.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host has no thread or no descriptor for it.
    #[error("cannot start a virtual processor")]
    Start(#[from] io::Error),
}

/// The running processors.
pub struct Vcpus {
    make: MakeVcpu,
    most: u8,
    buses: Arc<Buses>,
    end: End,
    /// Those that are made and have no thread yet, in their order.
    idle: VecDeque<VcpuFd>,
    threads: Vec<JoinHandle<()>>,
    exits: Vec<Arc<Exits>>,
    gate: Arc<Gate>,
}

impl Vcpus {
    /// No processors yet; `most` are in the guest's tables.
    ///
    /// # Errors
    /// The host has no descriptor or no signal for them.
    pub fn new(make: MakeVcpu, most: u8, buses: Arc<Buses>, end: End) -> io::Result<Self> {
        kick::install_handler()?;
        Ok(Vcpus {
            make,
            most,
            buses,
            end,
            idle: VecDeque::new(),
            threads: Vec::new(),
            exits: Vec::new(),
            gate: Arc::new(Gate::new()?),
        })
    }

    /// Makes processors until there are `count`, or as many as the guest knows of, and starts a thread for each. The first
    /// one runs from then on; others wait for the guest to start them. Returns how many there are.
    ///
    /// # Errors
    /// The host has no room for them. Those that could be made stay, and another call goes on from there.
    pub fn grow(&mut self, count: u8) -> Result<u8, VcpuError> {
        let count = usize::from(count.min(self.most));
        // All of them before the first one runs and looks for the others.
        for index in self.made()..count {
            let fd = (self.make)(u8::try_from(index).expect("less than `most`"))?;
            self.idle.push_back(fd);
        }
        while self.threads.len() < count
            && let Some(fd) = self.idle.pop_front()
        {
            self.start(fd)?;
        }
        Ok(u8::try_from(self.threads.len()).expect("no more than `most`"))
    }

    fn made(&self) -> usize {
        self.threads.len() + self.idle.len()
    }

    fn start(&mut self, fd: VcpuFd) -> Result<(), VcpuError> {
        let exits = Arc::new(Exits::default());
        let vcpu = Vcpu {
            fd,
            index: self.threads.len(),
            buses: Arc::clone(&self.buses),
            gate: Arc::clone(&self.gate),
            end: self.end.clone(),
            exits: Arc::clone(&exits),
        };
        match vcpu.start() {
            Ok(thread) => self.threads.push(thread),
            Err((vcpu, error)) => {
                self.idle.push_front(vcpu.fd);
                return Err(error.into());
            }
        }
        self.exits.push(exits);
        Ok(())
    }

    /// Has every processor leave the guest and wait. [`Gate::is_everyone_waiting`] says when they do.
    pub fn pause(&self) {
        self.gate.close();
        for thread in &self.threads {
            kick::kick(thread);
        }
    }

    /// Lets every processor run again.
    pub fn resume(&self) {
        self.gate.open();
    }

    /// Where they wait while the guest is paused.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// How often each processor left the guest.
    pub fn metrics(&self) -> serde_json::Value {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        self.exits
            .iter()
            .map(|exits| {
                serde_json::json!({
                    "port_exits": read(&exits.ports),
                    "mmio_exits": read(&exits.mmio),
                    "kicks": read(&exits.kicks),
                })
            })
            .collect()
    }
}
