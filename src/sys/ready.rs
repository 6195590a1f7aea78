//! Whether something is there to be read.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether a read of `fd` would not wait, because there is something or because it fails (poll(2), without waiting).
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Where it fails, the read will say why.
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_pipe_is_readable_when_something_is_in_it_and_when_it_has_ended() {
        let (out, mut into) = std::io::pipe().unwrap();
        assert!(!is_readable(out.as_fd()));
        into.write_all(b"x").unwrap();
        assert!(is_readable(out.as_fd()));
        let (out, into) = std::io::pipe().unwrap();
        drop(into);
        assert!(is_readable(out.as_fd()));
    }
}
