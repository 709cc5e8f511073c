//! The agent of L1: runs one command per connection and carries its input, output and exit code.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;

use super::pty::Terminal;
use crate::session::kill_session;
use crate::testbed::channel::{Frame, Run};

/// How long output may stay silent after the command ended, while something it left behind still holds the pipes.
const SILENCE: Duration = Duration::from_secs(1);

/// Serves commands that name `token`, for ever.
///
/// # Errors
/// Those of accept(2).
pub fn serve(listener: &TcpListener, token: &str) -> io::Result<()> {
    loop {
        let (host, _) = listener.accept()?;
        let token = token.to_owned();
        thread::spawn(move || {
            if let Err(error) = Connection::new(host).and_then(|mut host| host.answer(&token)) {
                eprintln!("bulkhead-l1: connection: {error}");
            }
        });
    }
}

struct Connection {
    host: TcpStream,
    replies: Arc<Mutex<TcpStream>>,
}

impl Connection {
    fn new(host: TcpStream) -> io::Result<Self> {
        host.set_nodelay(true)?;
        let replies = Arc::new(Mutex::new(host.try_clone()?));
        Ok(Self { host, replies })
    }

    fn answer(&mut self, token: &str) -> io::Result<()> {
        let run = match Frame::read(&mut self.host)? {
            Frame::Run(run) if run.token == token => run,
            Frame::Run(_) => return reply(&self.replies, &Frame::Failed("wrong token".into())),
            _ => return reply(&self.replies, &Frame::Failed("expected a command".into())),
        };
        let result = self.run(&run);
        let last = match result {
            Ok(status) => Frame::Exit(code(status)),
            Err(error) => Frame::Failed(format!("{}: {error}", run.args.join(" "))),
        };
        reply(&self.replies, &last)?;
        // The other direction stays open: to close it over unread input would reset the connection and lose the reply.
        self.host.shutdown(Shutdown::Write)
    }

    fn run(&mut self, run: &Run) -> io::Result<ExitStatus> {
        let (program, args) = run
            .args
            .split_first()
            .ok_or_else(|| io::Error::other("no command"))?;
        let mut command = Command::new(program);
        command
            .args(args)
            .envs(run.env.iter().cloned())
            .current_dir(run.dir.as_deref().unwrap_or("/"));
        let terminal = if let Some(size) = run.terminal {
            Some(Terminal::attach(&mut command, size)?)
        } else {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            // SAFETY: setsid(2) is async-signal-safe.
            unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
            None
        };
        let mut child = command.spawn()?;
        drop(command);
        let output = self.carry_output(&mut child, terminal.as_ref())?;
        let running = self.carry_input(&mut child, terminal)?;
        let status = child.wait()?;
        *running.lock().expect("no holder panics") = false;
        drain(&output);
        Ok(status)
    }

    fn carry_output(&self, child: &mut Child, terminal: Option<&Terminal>) -> io::Result<Receiver<()>> {
        let (progress, output) = channel();
        if let Some(terminal) = terminal {
            carry(terminal.handle()?, Frame::Stdout, &self.replies, progress);
            return Ok(output);
        }
        if let Some(stdout) = child.stdout.take() {
            carry(stdout, Frame::Stdout, &self.replies, progress.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            carry(stderr, Frame::Stderr, &self.replies, progress);
        }
        Ok(output)
    }

    /// Feeds the command until the host hangs up, which kills the command's session while it is running.
    fn carry_input(&self, child: &mut Child, terminal: Option<Terminal>) -> io::Result<Arc<Mutex<bool>>> {
        let leader = Pid::from_raw(child.id().cast_signed());
        let mut stdin: Option<Box<dyn Write + Send>> = match &terminal {
            Some(terminal) => Some(Box::new(terminal.handle()?)),
            None => child.stdin.take().map(|stdin| Box::new(stdin) as _),
        };
        // A thread of its own: a command that does not read must not keep us from seeing the host hang up.
        let (feed, fed) = channel::<Vec<u8>>();
        thread::spawn(move || {
            for data in fed {
                if data.is_empty()
                    || stdin
                        .as_mut()
                        .is_some_and(|stdin| stdin.write_all(&data).is_err())
                {
                    stdin = None;
                }
            }
        });
        let running = Arc::new(Mutex::new(true));
        let still_running = Arc::clone(&running);
        let mut host = self.host.try_clone()?;
        thread::spawn(move || {
            loop {
                match Frame::read(&mut host) {
                    // The feeding thread lives as long as `feed`.
                    Ok(Frame::Stdin(data)) => drop(feed.send(data)),
                    Ok(Frame::Resize(size)) => {
                        if let Some(terminal) = &terminal {
                            terminal.resize(size);
                        }
                    }
                    _ => break,
                }
            }
            if *still_running.lock().expect("no holder panics") {
                kill_session(leader);
            }
        });
        Ok(running)
    }
}

fn carry(
    mut from: impl Read + Send + 'static,
    frame: fn(Vec<u8>) -> Frame,
    replies: &Arc<Mutex<TcpStream>>,
    progress: Sender<()>,
) {
    let replies = Arc::clone(replies);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if reply(&replies, &frame(buffer[..length].to_vec())).is_err() || progress.send(()).is_err() {
                return;
            }
        }
    });
}

fn reply(replies: &Mutex<TcpStream>, frame: &Frame) -> io::Result<()> {
    frame.write(&mut *replies.lock().expect("no holder panics"))
}

/// Waits for the end of every stream, which drops its sender, or for silence.
fn drain(output: &Receiver<()>) {
    while output.recv_timeout(SILENCE).is_ok() {}
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
