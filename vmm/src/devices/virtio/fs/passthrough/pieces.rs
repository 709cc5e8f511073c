//! Calls that move a part of what they are asked to.

use std::io::{self, ErrorKind};

/// Moves `size` bytes in pieces of up to `at_once`: `operation` is told the size of each, and how much was moved before it. Ends early
/// where a piece is not moved whole.
///
/// # Errors
/// The first piece's. A later one's is for the call that goes on from there.
pub fn in_pieces(
    size: usize,
    at_once: usize,
    mut operation: impl FnMut(usize, usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    loop {
        let piece = (size - done).min(at_once);
        let moved = match retry(|| operation(piece, done)) {
            Err(_) if done > 0 => 0,
            result => result?,
        };
        done += moved;
        if moved < piece || done == size {
            return Ok(done);
        }
    }
}

/// Does something again for as long as a signal interrupts it.
pub fn retry(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves 25 bytes by tens, with these results, and says what came of it and what was asked for.
    fn moves(results: &[io::Result<usize>]) -> (io::Result<usize>, Vec<(usize, usize)>) {
        let mut asked = Vec::new();
        let mut results = results.iter();
        let done = in_pieces(25, 10, |piece, done| {
            asked.push((piece, done));
            match results.next().expect("no more pieces") {
                Ok(moved) => Ok(*moved),
                Err(error) => Err(error.kind().into()),
            }
        });
        (done, asked)
    }

    #[test]
    fn everything_is_moved_once() {
        let (done, asked) = moves(&[Ok(10), Err(ErrorKind::Interrupted.into()), Ok(10), Ok(5)]);
        assert_eq!(done.unwrap(), 25);
        assert_eq!(asked, [(10, 0), (10, 10), (10, 10), (5, 20)]);
        assert_eq!(in_pieces(0, 10, |piece, _| Ok(piece)).unwrap(), 0);
        assert_eq!(in_pieces(25, 25, |piece, _| Ok(piece)).unwrap(), 25);
    }

    #[test]
    fn a_piece_that_is_not_moved_whole_is_the_last() {
        assert_eq!(moves(&[Ok(10), Ok(3)]).0.unwrap(), 13);
        assert_eq!(moves(&[Ok(10), Ok(0)]).0.unwrap(), 10);
        assert_eq!(moves(&[Ok(0)]).0.unwrap(), 0);
    }

    #[test]
    fn what_was_moved_before_an_error_counts() {
        let full = || Err(ErrorKind::StorageFull.into());
        assert_eq!(moves(&[Ok(10), full()]).0.unwrap(), 10);
        assert_eq!(moves(&[full()]).0.unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
