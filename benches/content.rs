//! What content costs without a disk: sealing, opening and bookkeeping over a backing file in memory.

use std::hint::black_box;
use std::io;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::content::{BackingFile, CipherOffset, Content, ContentKey, Durability};
use kmsfs::crypto::{DataKey, Secret};
use parking_lot::Mutex;

const MIB: usize = 1 << 20;
const FILE: usize = 64 * MIB;

#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl BackingFile for Memory {
    fn read_at(&self, buf: &mut [u8], at: CipherOffset) -> io::Result<usize> {
        let bytes = self.0.lock();
        let there = bytes.get(at.0 as usize..).unwrap_or_default();
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }
    fn write_at(&self, buf: &[u8], at: CipherOffset) -> io::Result<()> {
        let mut bytes = self.0.lock();
        let (at, end) = (at.0 as usize, at.0 as usize + buf.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(buf);
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().resize(len as usize, 0);
        Ok(())
    }
    fn allocate(&self, _: CipherOffset, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn punch_hole(&self, _: CipherOffset, _: u64) -> io::Result<()> {
        Ok(())
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

fn key() -> ContentKey {
    ContentKey { key: DataKey::from_secret(Secret::build(|to| to.fill(7))), mirror: Some([0; 68]) }
}

fn filled() -> Content<Memory> {
    let content = Content::create(Memory::default(), key(), Durability::Atomic);
    let data = vec![3; MIB];
    for at in (0..FILE).step_by(MIB) {
        content.write(at as u64, &data).expect("memory does not fail");
    }
    content.sync(false).expect("memory does not fail");
    content
}

fn content(c: &mut Criterion) {
    let mut group = c.benchmark_group("content");
    let mut buffer = vec![5; MIB];
    let mut next = 0;
    let mut advance = move |step: usize| {
        next = (next + step) % FILE;
        next as u64
    };

    let file = filled();
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("read_seq_1m", |b| b.iter(|| file.read(advance(MIB), black_box(&mut buffer))));

    let mut fresh = Content::create(Memory(Mutex::new(Vec::with_capacity(FILE + 2 * MIB))), key(), Durability::Atomic);
    group.bench_function("write_seq_1m", |b| {
        b.iter(|| {
            if fresh.size() as usize == FILE {
                fresh.truncate(0).expect("memory does not fail");
            }
            fresh.append(black_box(&buffer))
        });
    });
    fresh = filled();
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("overwrite_4k", |b| b.iter(|| fresh.write(advance(37 * 4096), black_box(&buffer[..4096]))));

    group.throughput(Throughput::Elements(1));
    group.bench_function("inline_create", |b| {
        b.iter(|| {
            let file = Content::create(Memory::default(), key(), Durability::Atomic);
            file.write(0, black_box(&buffer[..1000])).and_then(|()| file.commit())
        });
    });
    group.finish();
}

criterion_group!(benches, content);
criterion_main!(benches);
