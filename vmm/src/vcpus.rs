//! All virtual processors of the guest together.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;

use crate::end::End;
use crate::kick;
use crate::pause::Gate;
use crate::vcpu::{Buses, Exits, Vcpu};

/// The running processors.
pub struct Vcpus {
    threads: Vec<JoinHandle<()>>,
    exits: Vec<Arc<Exits>>,
    gate: Arc<Gate>,
}

impl Vcpus {
    /// Starts a thread for each; the guest runs from then on.
    pub fn start(vcpus: Vec<VcpuFd>, buses: &Arc<Buses>, end: &End) -> io::Result<Self> {
        kick::install_handler()?;
        let gate = Arc::new(Gate::new(vcpus.len())?);
        let exits: Vec<_> = vcpus.iter().map(|_| Arc::new(Exits::default())).collect();
        let threads = vcpus
            .into_iter()
            .zip(&exits)
            .enumerate()
            .map(|(index, (fd, exits))| {
                Vcpu {
                    fd,
                    index,
                    buses: Arc::clone(buses),
                    gate: Arc::clone(&gate),
                    end: end.clone(),
                    exits: Arc::clone(exits),
                }
                .start()
            })
            .collect::<Result<_, _>>()?;
        Ok(Vcpus { threads, exits, gate })
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
