//! A first program of the guest that does nothing but to say that it runs.

use super::experiments::UP;
use crate::pvh;

/// The program, for Linux.
pub fn elf() -> Vec<u8> {
    pvh::elf(&code())
}

/// x86-64: `mov eax, 1; mov edi, 1; lea rsi, [rip + text]; mov edx, length; syscall`, which is write(2) to the console,
/// and then pause(2) for ever: `again: mov eax, 34; syscall; jmp again`. The text follows.
fn code() -> Vec<u8> {
    let mut code = vec![0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0];
    code.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]);
    code.push(0xba);
    code.extend(u32::try_from(UP.len() + 1).expect("short").to_le_bytes());
    code.extend([0x0f, 0x05]);
    code.extend([0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]);
    code.extend(UP.as_bytes());
    code.push(b'\n');
    code
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn it_says_so_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("greeter");
        std::fs::write(&path, elf()).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
        let mut greeter = Command::new(&path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut said = vec![0; UP.len() + 1];
        let mut stdout = greeter.stdout.take().expect("piped");
        stdout.read_exact(&mut said).expect("all of it");
        assert_eq!(said, format!("{UP}\n").as_bytes());
        assert!(greeter.try_wait().expect("ours").is_none());
        greeter.kill().expect("ours");
        greeter.wait().expect("ours");
    }
}
