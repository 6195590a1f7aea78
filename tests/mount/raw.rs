//! System calls that rustix keeps unsafe or does not have, and callers with other credentials.
//! The only unsafe code of the tests.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::thread;

use rustix::fs::{Gid, Mode, Uid};
use rustix::ioctl;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Whose system calls: a user with groups and a umask.
#[derive(Clone)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
}

/// nobody, an ordinary user on every Linux.
pub const NOBODY: u32 = 65534;

impl Caller {
    /// A user with one group of the same number and a umask of 022.
    pub fn user(id: u32) -> Caller {
        Caller { uid: id, gid: id, groups: vec![id], umask: 0o022 }
    }

    /// The user who runs the tests, with another umask.
    pub fn with_umask(umask: u32) -> Caller {
        Caller { uid: 0, gid: 0, groups: vec![0], umask }
    }

    /// Runs `work` in a new thread that alone has these credentials and this umask (threads of one process may
    /// differ in both on Linux). A panic inside goes on outside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.become_caller();
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn become_caller(&self) {
        // SAFETY: only FS is unshared, no file descriptor table.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.expect("unshare(CLONE_FS)");
        rustix::process::umask(Mode::from_raw_mode(self.umask));
        if self.uid == 0 && self.gid == 0 {
            return;
        }
        let groups: Vec<Gid> = self.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        rustix::thread::set_thread_groups(&groups).expect("setgroups needs root");
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("setresgid needs root");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("setresuid needs root");
    }
}

/// A mapping of a file's first bytes.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    pub fn new(file: &File, len: usize, shared: bool) -> Mapping {
        let flags = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        // SAFETY: the kernel chooses the address; nothing else maps over it until drop.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file.as_fd(), 0)
        };
        let start = NonNull::new(start.expect("mmap").cast()).expect("mmap gives no null");
        Mapping { start, len }
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        (offset..offset + len)
            // SAFETY: inside the mapping; volatile because another mapping or a write may change the byte.
            .map(|at| unsafe { self.start.as_ptr().add(at).read_volatile() })
            .collect()
    }

    /// The byte there, or EFAULT where reading it would end this process with SIGBUS: the kernel fetches it.
    pub fn peek(&self, offset: usize) -> rustix::io::Result<u8> {
        assert!(offset < self.len);
        let (reader, writer) = std::io::pipe().expect("pipe");
        // SAFETY: inside the mapping. Only the kernel reads it, which answers EFAULT if the page is not to be had.
        let byte = unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), 1) };
        rustix::io::write(writer, byte)?;
        let mut fetched = [0];
        rustix::io::read(reader, &mut fetched)?;
        Ok(fetched[0])
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        for (i, &byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping, which is writable.
            unsafe { self.start.as_ptr().add(offset + i).write_volatile(byte) };
        }
    }

    pub fn sync(&self) {
        // SAFETY: exactly the mapped range.
        unsafe { rustix::mm::msync(self.start.as_ptr().cast(), self.len, MsyncFlags::SYNC) }.expect("msync");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapped range, which nobody uses any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The EXT4_IOC_SHUTDOWN (XFS_IOC_GOINGDOWN) request, `_IOR('X', 125, u32)`.
const SHUTDOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
/// Without flushing the journal: what a power cut does.
const NO_LOG_FLUSH: u32 = 2;

/// Cuts the power of the ext4 or XFS that `file` lies on: nothing is written from now on.
pub fn cut_power(file: &File) {
    let mut flags = NO_LOG_FLUSH;
    // SAFETY: this request reads one u32.
    let request = unsafe { ioctl::Updater::<SHUTDOWN, u32>::new(&mut flags) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(file, request) }.expect("EXT4_IOC_SHUTDOWN");
}

/// FS_IOC32_SETFLAGS, as linux/fs.h has it for 32-bit programs.
const SET_FLAGS_32: ioctl::Opcode = 0x4004_6602;

/// Asks in a 64-bit program for inode flags as a 32-bit one does.
pub fn set_flags_32(file: &File, flags: u32) -> rustix::io::Result<()> {
    // SAFETY: this request reads one u32.
    let request = unsafe { ioctl::Setter::<SET_FLAGS_32, u32>::new(flags) };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(file, request) }
}
