//! What each request pays for, without a disk: sealing and opening, META, names, wrapped keys, geometry.

#[path = "../tests/memory/mod.rs"]
mod memory;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::content::{Content, ContentKey, Durability, backing_len, plain_size};
use kmsfs::crypto::{DataKey, GcmKey, NONCE_LEN, TAG_LEN};
use kmsfs::kms::{EncryptionContext, Kms, LocalKms, Requester};
use kmsfs::names::{DirNames, NameEncoding};
use memory::Memory;

const BLOCK: usize = 4096;

/// One block, a request of readahead, and the longest write of the kernel.
const REQUESTS: [(usize, &str); 3] = [(1, "4k"), (32, "128k"), (256, "1m")];

fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("blocks");
    let key = GcmKey::<kmsfs::crypto::aead::DefaultGcm>::new(&[7; 32]);
    for (count, size) in REQUESTS {
        let (mut plain, mut sealed) = (vec![3; count * BLOCK], vec![0; count * BLOCK]);
        let (nonces, mut tags) = (vec![[5; NONCE_LEN]; count], vec![[0; TAG_LEN]; count]);
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function(format!("seal_{size}"), |b| {
            b.iter(|| key.seal_blocks(9, &nonces, black_box(&plain), &mut sealed, &mut tags));
        });
        group.bench_function(format!("open_{size}"), |b| {
            b.iter(|| key.open_blocks(9, |i| (&nonces[i], &tags[i]), black_box(&sealed), &mut plain));
        });
    }
    group.finish();
}

fn meta(c: &mut Criterion) {
    let mut group = c.benchmark_group("meta");
    let key = ContentKey { key: DataKey::random(), mirror: Some([0; 68]) };
    let file = Content::create(Memory::default(), key, Durability::Fast);
    let block = [3; BLOCK];
    // Beyond what is inline: from here on a commit seals the META page of the group.
    file.write(0, &[3; 2 * BLOCK]).and_then(|()| file.commit()).expect("memory does not fail");
    group.bench_function("write_4k_and_commit", |b| {
        b.iter(|| file.write(0, black_box(&block)).and_then(|()| file.commit()));
    });
    group.finish();
}

fn names(c: &mut Criterion) {
    let mut group = c.benchmark_group("names");
    let directory = DirNames::new(&DataKey::random(), NameEncoding::Base64Url);
    for (len, size) in [(12, "12"), (60, "60"), (255, "255")] {
        let plain = vec![b'n'; len];
        let stored = directory.encode(&plain).expect("a name").stored().to_owned();
        group.bench_function(format!("encode_{size}"), |b| b.iter(|| directory.encode(black_box(&plain))));
        group.bench_function(format!("decode_{size}"), |b| b.iter(|| directory.decode(black_box(stored.as_bytes()))));
    }
    group.bench_function("directory_key_schedule", |b| {
        let key = DataKey::random();
        b.iter(|| DirNames::new(black_box(&key), NameEncoding::Base64Url));
    });
    group.finish();
}

fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("keys");
    let (kms, id) = LocalKms::ephemeral();
    let pairs =
        [("kmsfs:volume", "0b8f3f52-7c05-4c5b-9d0e-2b8a8d1c6c11"), ("kmsfs:kind", "file-gcm"), ("kmsfs:parent", "0")];
    let context = EncryptionContext::new(pairs).expect("a context");
    let (_, blob) = kms.generate_data_key(Requester::Own, &id, &context).expect("wrapped");
    group.bench_function("wrap", |b| b.iter(|| kms.generate_data_key(Requester::Own, &id, black_box(&context))));
    group.bench_function("unwrap", |b| b.iter(|| kms.decrypt(Requester::Own, black_box(&blob.0), &context)));
    group.finish();
}

fn geometry(c: &mut Criterion) {
    let mut group = c.benchmark_group("geometry");
    let sizes: Vec<u64> = (0..1000).map(|n| n * n * 977).collect();
    group.throughput(Throughput::Elements(sizes.len() as u64));
    group.bench_function("size_there_and_back", |b| {
        b.iter(|| sizes.iter().map(|size| plain_size(backing_len(black_box(*size)))).sum::<u64>());
    });
    group.finish();
}

criterion_group!(benches, blocks, meta, names, keys, geometry);
criterion_main!(benches);
