//! The messages of upkeep, as JSON in the buffer of one ioctl(2).

use crate::fs::upkeep::{Answer, Request};
use crate::fs::{Caller, EncryptedFs, Errno, Ino, Result};

pub(super) use crate::fs::{CONTROL, MESSAGE_LEN};

/// Answers the message in `input`.
///
/// # Errors
/// EINVAL for what is no message, EMSGSIZE for an answer that is too long; what the filesystem refuses is in the answer.
pub(super) fn call(fs: &EncryptedFs, caller: &Caller, at: (Ino, u64), input: &[u8], out_size: u32) -> Result<Vec<u8>> {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let request: Request = serde_json::from_slice(&input[..end]).map_err(|_| Errno::INVAL)?;
    let answer = fs
        .upkeep(caller, at, &request)
        .unwrap_or_else(|error| Answer::Refused { errno: error.errno().raw_os_error(), reason: error.to_string() });
    let mut output = serde_json::to_vec(&answer).map_err(|_| Errno::INVAL)?;
    if output.len() > out_size as usize || output.len() > MESSAGE_LEN {
        return Err(Errno::MSGSIZE.into());
    }
    output.resize(out_size as usize, 0);
    Ok(output)
}
