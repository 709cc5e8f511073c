//! What QEMU's interface for plugins has of use here: version 1, which Debian 12's QEMU 7.2 has. Newer ones may refuse it.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// The version of the interface that a plugin is made for.
pub const VERSION: c_int = 1;

/// A callback does not look at the processor's registers.
pub const NO_REGISTERS: c_int = 0;

/// Add to a number.
pub const ADD_U64: c_int = 0;

/// Which plugin.
pub type Id = u64;

/// A translation block: instructions that are translated, and entered, together.
#[repr(C)]
pub struct Block {
    _opaque: [u8; 0],
}

/// An instruction of a block.
#[repr(C)]
pub struct Instruction {
    _opaque: [u8; 0],
}

/// What QEMU tells of itself.
#[repr(C)]
pub struct Info {
    _opaque: [u8; 0],
}

/// Called for each block before it is translated.
pub type OnTranslation = extern "C" fn(Id, *mut Block);

/// Called by the processor of this number, with what has been registered with it.
pub type OnExecution = extern "C" fn(c_uint, *mut c_void);

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: OnTranslation);
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const c_void;
    pub fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    pub fn qemu_plugin_register_vcpu_tb_exec_inline(
        block: *mut Block,
        operation: c_int,
        number: *mut c_void,
        operand: u64,
    );
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Block,
        callback: OnExecution,
        flags: c_int,
        argument: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: OnExecution,
        flags: c_int,
        argument: *mut c_void,
    );
}

/// The arguments that `-plugin FILE,NAME=VALUE,…` gives, each as `NAME=VALUE`.
pub type Arguments = *const *const c_char;
