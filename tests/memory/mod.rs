//! A backing file in memory, for tests that only want its bytes.

use std::io;
use std::sync::Mutex;

use kmsfs::content::{BackingFile, CipherOffset};

#[derive(Default)]
pub struct Memory(pub Mutex<Vec<u8>>);

impl BackingFile for Memory {
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize> {
        let bytes = self.0.lock().expect("no holder panicked");
        let there = bytes.get(at.0 as usize..).unwrap_or_default();
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }
    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()> {
        let mut bytes = self.0.lock().expect("no holder panicked");
        let (at, end) = (at.0 as usize, at.0 as usize + buf.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(buf);
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("no holder panicked").len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().expect("no holder panicked").resize(len as usize, 0);
        Ok(())
    }
    fn allocate(&self, _: CipherOffset, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn punch_hole(&self, _: CipherOffset, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>> {
        Ok(Some(at))
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
}
