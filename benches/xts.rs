//! What AES-256-XTS costs on one core: by each provider, for one block and for a request of 128 KiB.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use kmsfs::crypto::xts::{DefaultXts, PortableXts, Xts, XtsKey};
use kmsfs::crypto::{DataKey, derive};

const SIZES: [(usize, &str); 2] = [(4096, "4k"), (128 << 10, "128k")];

fn provider<P: Xts>(group: &mut BenchmarkGroup<'_, WallTime>, role: &str) {
    let key = XtsKey::<P>::new(&derive::xts_keys(&DataKey::random(), 0)).expect("derived halves differ");
    for (len, size) in SIZES {
        let (mut plain, mut sealed) = (vec![7; len], vec![0; len]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{role}_encrypt_{size}"), |b| {
            b.iter(|| key.encrypt(9, black_box(&plain), black_box(&mut sealed)));
        });
        group.bench_function(format!("{role}_decrypt_{size}"), |b| b.iter(|| key.decrypt(9, black_box(&mut plain))));
    }
}

fn tail(group: &mut BenchmarkGroup<'_, WallTime>) {
    let key = derive::tail_key(&DataKey::random(), 0);
    let mut tail = [7; 15];
    group.throughput(Throughput::Elements(1));
    group.bench_function("tail_15", |b| b.iter(|| key.encrypt(9, black_box(&mut tail))));
}

fn xts(c: &mut Criterion) {
    let mut group = c.benchmark_group("xts");
    provider::<DefaultXts>(&mut group, "default");
    provider::<PortableXts>(&mut group, "portable");
    tail(&mut group);
    group.finish();
}

criterion_group!(benches, xts);
criterion_main!(benches);
