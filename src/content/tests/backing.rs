//! A backing file in memory, sparse, that can be told to fail; and a seeded source of choices.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::content::{BackingFile, CipherOffset, Content, ContentKey, Durability, Error, TailRecord};
use crate::crypto::{DataKey, Secret};

const PAGE: u64 = 4096;

/// A call that changes the backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write,
    SetLen,
    Punch,
    Sync,
    Tail,
}

/// What the next failing call does.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// This many calls succeed before.
    pub after: usize,
    /// A write puts the first pages of its bytes there before it fails.
    pub torn: bool,
    /// All further calls fail as well: the process is dead.
    pub for_good: bool,
    pub kind: io::ErrorKind,
}

#[derive(Default, Clone)]
pub struct Bytes {
    pub len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Bytes {
    pub fn read(&self, at: u64, buf: &mut [u8]) -> usize {
        let len = self.len.saturating_sub(at).min(buf.len() as u64) as usize;
        each_page(at, len, |page, inside, part| match self.pages.get(&page) {
            Some(bytes) => buf[part].copy_from_slice(&bytes[inside]),
            None => buf[part].fill(0),
        });
        len
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        each_page(at, bytes.len(), |page, inside, part| {
            let to = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
            to[inside].copy_from_slice(&bytes[part]);
        });
        self.len = self.len.max(at + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len.next_multiple_of(PAGE) - len);
        }
        self.len = len;
    }

    pub fn zero(&mut self, at: u64, len: u64) {
        let touched: Vec<u64> = self.pages.range(at / PAGE..(at + len).div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in touched {
            let (start, end) = (at.max(page * PAGE), (at + len).min((page + 1) * PAGE));
            if end - start == PAGE {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[(start % PAGE) as usize..][..(end - start) as usize].fill(0);
            }
        }
    }
}

fn each_page(at: u64, len: usize, mut f: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let (page, inside) = ((at + done as u64) / PAGE, ((at + done as u64) % PAGE) as usize);
        let count = (PAGE as usize - inside).min(len - done);
        f(page, inside..inside + count, done..done + count);
        done += count;
    }
}

/// The backing file.
#[derive(Default)]
pub struct Memory {
    pub bytes: Mutex<Bytes>,
    pub fault: Mutex<Option<Fault>>,
    pub calls: Mutex<Vec<Call>>,
    /// This many syncs succeed before one fails.
    pub failing_sync: Mutex<Option<usize>>,
    /// What a power cut leaves: changes of length and holes at once, what was written once it was synced.
    pub durable: Mutex<Bytes>,
    /// Pages that are not there yet. A sync that fails forgets them, as Linux does.
    unwritten: Mutex<BTreeSet<u64>>,
    /// It cannot be longer than this.
    pub limit: Mutex<Option<u64>>,
    /// How often it was asked where data are.
    pub asked: AtomicUsize,
    /// What outlives the process besides: the tail that is kept for an XTS file.
    pub tail: Mutex<Option<TailRecord>>,
}

impl Memory {
    pub fn of(bytes: Bytes) -> Arc<Self> {
        Arc::new(Self { durable: Mutex::new(bytes.clone()), bytes: Mutex::new(bytes), ..Self::default() })
    }

    pub fn snapshot(&self) -> Bytes {
        self.bytes.lock().clone()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.bytes.lock().write(at, bytes);
        self.unwritten.lock().extend(at / PAGE..(at + bytes.len() as u64).div_ceil(PAGE));
    }

    fn sync(&self) -> io::Result<()> {
        let unwritten = std::mem::take(&mut *self.unwritten.lock());
        self.call(Call::Sync).map_err(|fault| fault.kind)?;
        let mut failing = self.failing_sync.lock();
        if *failing == Some(0) {
            *failing = None;
            return Err(io::ErrorKind::Other.into());
        }
        *failing = failing.map(|left| left - 1);
        let (bytes, mut durable) = (self.bytes.lock(), self.durable.lock());
        for page in unwritten {
            match bytes.pages.get(&page) {
                Some(there) => drop(durable.pages.insert(page, there.clone())),
                None => drop(durable.pages.remove(&page)),
            }
        }
        durable.len = bytes.len;
        Ok(())
    }

    fn fits(&self, len: u64) -> io::Result<()> {
        if self.limit.lock().is_some_and(|limit| len > limit) {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            Ok(())
        }
    }

    /// Counts the call; gives the fault if it is this one's turn.
    fn call(&self, call: Call) -> Result<(), Fault> {
        self.calls.lock().push(call);
        let mut fault = self.fault.lock();
        match fault.as_mut() {
            Some(next) if next.after == 0 && next.for_good => Err(*next),
            Some(next) if next.after == 0 => Err(fault.take().expect("it was just seen")),
            Some(next) => {
                next.after -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl BackingFile for Memory {
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize> {
        Ok(self.bytes.lock().read(at.0, buf))
    }
    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()> {
        self.fits(at.0 + buf.len() as u64)?;
        if let Err(fault) = self.call(Call::Write) {
            if fault.torn {
                let pages = buf.len().div_ceil(PAGE as usize).div_ceil(2) * PAGE as usize;
                self.write(at.0, &buf[..pages.min(buf.len())]);
            }
            return Err(fault.kind.into());
        }
        self.write(at.0, buf);
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fits(len)?;
        self.call(Call::SetLen).map_err(|fault| fault.kind)?;
        self.bytes.lock().set_len(len);
        self.durable.lock().set_len(len);
        Ok(())
    }
    fn allocate(&self, _: CipherOffset, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn punch_hole(&self, at: CipherOffset, len: u64) -> io::Result<()> {
        self.call(Call::Punch).map_err(|fault| fault.kind)?;
        let mut bytes = self.bytes.lock();
        let len = len.min(bytes.len.saturating_sub(at.0));
        bytes.zero(at.0, len);
        self.durable.lock().zero(at.0, len);
        Ok(())
    }
    fn next_data(&self, at: CipherOffset) -> io::Result<Option<CipherOffset>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.lock();
        let next = bytes.pages.range(at.0 / PAGE..).next().map(|(page, _)| CipherOffset(at.0.max(page * PAGE)));
        Ok(next.filter(|next| next.0 < bytes.len))
    }
    fn next_hole(&self, at: CipherOffset) -> io::Result<CipherOffset> {
        let bytes = self.bytes.lock();
        let hole = (at.0 / PAGE..).find(|page| !bytes.pages.contains_key(page)).expect("memory is finite");
        Ok(CipherOffset(at.0.max(hole * PAGE).min(bytes.len)))
    }
    fn keep_tail(&self, record: &TailRecord, _: bool) -> io::Result<()> {
        self.call(Call::Tail).map_err(|fault| fault.kind)?;
        *self.tail.lock() = Some(*record);
        Ok(())
    }
    fn kept_tail(&self, _: &[u8; 16]) -> io::Result<Option<TailRecord>> {
        Ok(*self.tail.lock())
    }
    fn drop_tail(&self, _: &[u8; 16]) -> io::Result<()> {
        if self.tail.lock().is_some() {
            self.call(Call::Tail).map_err(|fault| fault.kind)?;
            *self.tail.lock() = None;
        }
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// The key that stands for file `number` in these tests.
pub fn key(number: u8) -> ContentKey {
    let key = DataKey::from_secret(Secret::build(|to| to.fill(number)));
    ContentKey { key, mirror: Some([number ^ 0x5a; 68]) }
}

pub fn create(durability: Durability) -> Content<Arc<Memory>> {
    Content::create(Arc::default(), key(1), durability)
}

pub fn reopen(bytes: Bytes) -> Result<Content<Arc<Memory>>, Error> {
    Content::open(Memory::of(bytes), key(1), Durability::Atomic)
}

pub fn read_all<B: BackingFile>(content: &Content<B>) -> Result<Vec<u8>, Error> {
    let mut all = vec![0xee; content.size() as usize];
    let len = content.read(0, &mut all)?;
    assert_eq!(len, all.len());
    Ok(all)
}

/// SplitMix64 (Steele, Lea, Flood, 2014): what is chosen follows from the seed.
pub struct Choices(pub u64);

impl Choices {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }

    /// An offset or a length, mostly near an edge of the format.
    pub fn edge(&mut self, most: u64) -> u64 {
        const EDGES: [u64; 9] = [0, 3584, 4096, 8192, 63 * 4096, 64 * 4096, 65 * 4096, 128 * 4096, 600 << 10];
        let near = self.one_of(&EDGES).saturating_add(self.one_of(&[0, 0, 1, 2, 100])).saturating_sub(self.below(3));
        match self.below(4) {
            0 => self.below(most + 1),
            1 => self.below(most.min(5000) + 1),
            _ => near.min(most),
        }
    }
}
