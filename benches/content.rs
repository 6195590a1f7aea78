//! What content costs without a disk: sealing, opening and bookkeeping over a backing file in memory.

#[path = "../tests/memory/mod.rs"]
mod memory;

use std::hint::black_box;
use std::sync::Mutex;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::content::{Content, ContentKey, Durability};
use kmsfs::crypto::{DataKey, Secret};
use memory::Memory;

const MIB: usize = 1 << 20;
const FILE: usize = 64 * MIB;

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
