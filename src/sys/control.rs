//! Requests to a mounted volume: one ioctl(2) that carries a message there and another one back.
#![expect(unsafe_code, reason = "ioctl(2) takes a pointer; one call, whose buffer is as long as its number says")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;

use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// Length of the buffer that goes both ways. FUSE copies as many bytes as the number of an ioctl says, for which that has 14 bits.
pub const MESSAGE_LEN: usize = 16_000;

/// `_IOWR('K', 1, [u8; MESSAGE_LEN])`.
pub const CONTROL: u32 = (3 << 30) | ((MESSAGE_LEN as u32) << 16) | ((b'K' as u32) << 8) | 1;

struct Exchange<'a>(&'a mut [u8; MESSAGE_LEN]);

// SAFETY: the number says that MESSAGE_LEN bytes are read and written, and `as_ptr` gives an exclusively borrowed buffer
// of this length, which outlives the call.
unsafe impl Ioctl for Exchange<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        CONTROL as Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<()> {
        Ok(())
    }
}

/// Sends the message in `buffer` to the volume that `object` lies on; its answer is there afterwards, followed by zeros.
///
/// # Errors
/// ENOTTY if it is no kmsfs mount; ENOTCONN if its process is gone.
pub fn exchange(object: BorrowedFd<'_>, buffer: &mut [u8; MESSAGE_LEN]) -> Result<()> {
    // SAFETY: `Exchange` keeps the contract of its number; a driver that does not know the number, whose size no other has,
    // refuses it without a look at the buffer.
    unsafe { ioctl(object, Exchange(buffer)) }
}
