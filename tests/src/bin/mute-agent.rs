//! A guest's first process that says something on the console, and never a word to the host.

fn main() {
    println!("the mute agent is up");
    loop {
        nix::unistd::pause();
    }
}
