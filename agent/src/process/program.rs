//! Finds and executes a container's program.

use std::{
    convert::Infallible,
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    ptr,
};

use rustix::{
    fs::{Access, AtFlags, CWD, FileType, accessat, stat},
    io::Errno,
};

use crate::{failure::Failure, syscalls::describe};

/// Where programs are looked for when the environment does not say it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments and environment, as execve(2) takes them.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    file: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds the program that the first argument names, as the calling process sees the file system.
    ///
    /// # Errors
    /// In the words of a shell: not found, permission denied.
    pub fn find(args: &[String], env: &[String]) -> Result<Self, Failure> {
        let name = args.first().map(String::as_str).unwrap_or_default();
        let path = if name.contains('/') {
            let path = PathBuf::from(name);
            executable(&path).map_err(|errno| failure(&path, errno))?;
            path
        } else {
            let folders = variable(env, "PATH").unwrap_or(DEFAULT_PATH);
            search(name, folders)
                .ok_or_else(|| Failure::new(format!("exec \"{name}\": executable file not found in $PATH")))?
        };
        let strings = |texts: &[String]| -> Result<Vec<CString>, Failure> {
            texts
                .iter()
                .map(|text| CString::new(text.as_str()).map_err(|_| failure(&path, Errno::INVAL)))
                .collect()
        };
        Ok(Self {
            args: strings(args)?,
            env: strings(env)?,
            file: CString::new(path.as_os_str().as_bytes()).map_err(|_| failure(&path, Errno::INVAL))?,
            path,
        })
    }

    /// Becomes the program.
    ///
    /// # Errors
    /// In the words of a shell: exec format error, no such file or directory.
    pub fn execute(&self) -> Result<Infallible, Failure> {
        let pointers = |strings: &[CString]| -> Vec<_> {
            strings
                .iter()
                .map(|string| string.as_ptr())
                .chain([ptr::null()])
                .collect()
        };
        let (args, env) = (pointers(&self.args), pointers(&self.env));
        // SAFETY: all are strings that end with NUL, in arrays that end with a null pointer.
        unsafe { libc::execve(self.file.as_ptr(), args.as_ptr(), env.as_ptr()) };
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        Err(failure(&self.path, errno))
    }
}

/// The value of a variable in an environment; like in a shell's, the last one counts.
pub fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .rev()
        .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

fn search(name: &str, folders: &str) -> Option<PathBuf> {
    folders
        .split(':')
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name))
        .find(|path| executable(path).is_ok())
}

fn executable(path: &Path) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat(path)?.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile => match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            // The container's seccomp profile is older than faccessat2(2), which says neither by itself: exec will tell.
            Err(Errno::PERM | Errno::NOSYS) => Ok(()),
            answer => answer,
        },
        _ => Err(Errno::ACCESS),
    }
}

fn failure(path: &Path, errno: Errno) -> Failure {
    Failure::new(format!(
        "exec {}: {}",
        path.display(),
        describe(errno).to_lowercase()
    ))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };

    use super::*;

    fn find(name: &str, env: &[&str]) -> Result<PathBuf, String> {
        let env: Vec<String> = env.iter().map(|&entry| entry.to_owned()).collect();
        Program::find(&[name.to_owned()], &env)
            .map(|program| program.path)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_path_is_searched_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("a/x", 0o644), ("b/x", 0o755), ("c/x", 0o755)] {
            let path = folder.path().join(name);
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        let base = folder.path().display();
        let path = format!("PATH={base}/none:{base}/a:{base}/b:{base}/c");
        assert_eq!(
            find("x", &["PATH=/none", &path]).unwrap(),
            folder.path().join("b/x")
        );
        assert_eq!(
            find("x", &["PATH="]).unwrap_err(),
            "exec \"x\": executable file not found in $PATH"
        );
    }

    #[test]
    fn without_a_path_the_usual_one_is_searched() {
        assert!(find("sh", &[]).unwrap().is_absolute());
    }

    #[test]
    fn what_cannot_be_executed_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for (path, text) in [
            (file.display().to_string(), "permission denied"),
            (folder.path().display().to_string(), "is a directory"),
            ("/nowhere/x".to_owned(), "no such file or directory"),
        ] {
            assert_eq!(find(&path, &[]).unwrap_err(), format!("exec {path}: {text}"));
        }
    }
}
