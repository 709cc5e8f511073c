//! Counts how many instructions of each piece of code an emulated host executes: a plugin of QEMU's.
//!
//! `-plugin FILE,output=PATH`. A program in the emulated host begins and ends the counting by instructions that do nothing else,
//! [`BEGIN`] and [`END`]. At the end the output is extended by a line for each block of instructions that was executed,
//! `host` or `guest`, its address in hexadecimal and how many instructions that was; then by `entries` and how often the host
//! entered a guest; then by `end`.
//!
//! A guest is one of KVM's on an AMD processor: the host enters it by `vmrun`, and goes on behind that.

mod api;

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::api::{Arguments, Block, Id, Info, Instruction, OnExecution};

/// `nop dword ptr [rax + 0x6b6c7562]`: counting begins.
pub const BEGIN: [u8; 7] = *b"\x0f\x1f\x80bulk";

/// `nop dword ptr [rax + 0x64616568]`: counting ends.
pub const END: [u8; 7] = *b"\x0f\x1f\x80head";

/// `vmrun`.
const ENTER_GUEST: [u8; 3] = [0x0f, 0x01, 0xd8];

/// QEMU loads no plugin that is made for an interface that it does not have.
// SAFETY: QEMU reads it by this name, as an int.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = api::VERSION;

/// All that is known. QEMU has no instance of a plugin to give to its callbacks.
static PROFILE: Mutex<Option<Profile>> = Mutex::new(None);

/// What executes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum World {
    Host,
    Guest,
}

struct Profile {
    output: PathBuf,
    world: World,
    /// Where the host goes on when a guest has exited.
    behind_entry: Option<u64>,
    /// How many instructions were executed of the block that begins there. A block may be translated several times.
    blocks: HashMap<(World, u64), &'static AtomicU64>,
    entries: u64,
}

impl Profile {
    fn counter(&mut self, address: u64) -> &'static AtomicU64 {
        self.blocks
            .entry((self.world, address))
            .or_insert_with(|| Box::leak(Box::default()))
    }

    fn reset(&mut self) {
        for counter in self.blocks.values() {
            counter.store(0, Ordering::Relaxed);
        }
        self.entries = 0;
    }

    fn append(&self) -> io::Result<()> {
        let mut text = String::new();
        for ((world, address), counter) in &self.blocks {
            let world = match world {
                World::Host => "host",
                World::Guest => "guest",
            };
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                // Writing to a String does not fail.
                let _ = writeln!(text, "{world} {address:x} {count}");
            }
        }
        let _ = writeln!(text, "entries {}\nend", self.entries);
        let mut output = File::options().append(true).create(true).open(&self.output)?;
        output.write_all(text.as_bytes())
    }
}

fn lock() -> MutexGuard<'static, Option<Profile>> {
    PROFILE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_profile(act: impl FnOnce(&mut Profile)) {
    if let Some(profile) = lock().as_mut() {
        act(profile);
    }
}

/// Called by QEMU when it has loaded the plugin; not 0 keeps QEMU from starting.
///
/// # Safety
/// `arguments` are so many strings that end with 0.
// SAFETY: QEMU calls it by this name, with these arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const Info,
    count: c_int,
    arguments: Arguments,
) -> c_int {
    // SAFETY: as QEMU promises.
    let output = unsafe { (count == 1).then(|| CStr::from_ptr(*arguments)) };
    let output = output.and_then(|argument| argument.to_str().ok()?.strip_prefix("output="));
    let Some(output) = output else {
        eprintln!("bulkhead-profiler: the only argument is output=PATH");
        return 1;
    };
    *lock() = Some(Profile {
        output: output.into(),
        world: World::Host,
        behind_entry: None,
        blocks: HashMap::new(),
        entries: 0,
    });
    // SAFETY: the id is ours.
    unsafe { api::qemu_plugin_register_vcpu_tb_trans_cb(id, translate) };
    0
}

/// Has a block counted, and what it marks noticed.
extern "C" fn translate(_id: Id, block: *mut Block) {
    with_profile(|profile| {
        // SAFETY: QEMU's block is valid until this returns.
        let (address, length) = unsafe {
            (
                api::qemu_plugin_tb_vaddr(block),
                api::qemu_plugin_tb_n_insns(block),
            )
        };
        if profile.behind_entry == Some(address) {
            profile.world = World::Host;
            // SAFETY: as above, and the callback needs no argument.
            unsafe {
                api::qemu_plugin_register_vcpu_tb_exec_cb(block, leave_guest, api::NO_REGISTERS, null_mut());
            };
        }
        let counter = profile.counter(address);
        // SAFETY: as above. The number lives for ever, and the only processor there is adds to it.
        unsafe {
            api::qemu_plugin_register_vcpu_tb_exec_inline(
                block,
                api::ADD_U64,
                counter.as_ptr().cast(),
                length as u64,
            );
        }
        let mut at = address;
        for index in 0..length {
            // SAFETY: as above, and the block has so many.
            let instruction = unsafe { api::qemu_plugin_tb_get_insn(block, index) };
            let bytes = bytes(instruction);
            at += bytes.len() as u64;
            let callback: OnExecution = if bytes == ENTER_GUEST {
                profile.behind_entry = Some(at);
                enter_guest
            } else if bytes == BEGIN {
                begin
            } else if bytes == END {
                end
            } else {
                continue;
            };
            // SAFETY: as above, and the callbacks need no argument.
            unsafe {
                api::qemu_plugin_register_vcpu_insn_exec_cb(
                    instruction,
                    callback,
                    api::NO_REGISTERS,
                    null_mut(),
                );
            };
        }
    });
}

fn bytes<'a>(instruction: *const Instruction) -> &'a [u8] {
    // SAFETY: QEMU's instruction is valid as long as its block, and has so many bytes.
    unsafe {
        let data = api::qemu_plugin_insn_data(instruction);
        slice::from_raw_parts(data.cast(), api::qemu_plugin_insn_size(instruction))
    }
}

extern "C" fn enter_guest(_processor: c_uint, _nothing: *mut c_void) {
    with_profile(|profile| {
        profile.world = World::Guest;
        profile.entries += 1;
    });
}

extern "C" fn leave_guest(_processor: c_uint, _nothing: *mut c_void) {
    with_profile(|profile| profile.world = World::Host);
}

extern "C" fn begin(_processor: c_uint, _nothing: *mut c_void) {
    with_profile(Profile::reset);
}

extern "C" fn end(_processor: c_uint, _nothing: *mut c_void) {
    with_profile(|profile| {
        if let Err(error) = profile.append() {
            eprintln!("bulkhead-profiler: {}: {error}", profile.output.display());
        }
    });
}
