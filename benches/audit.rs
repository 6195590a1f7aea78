//! What the audit log costs: the thread that uses a key, and the thread that writes.
//!
//! `cargo bench -p kmsfs-bench --bench audit`. The log lies in TMPDIR.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::crypto::Secret;
use kmsfs::kms::Principal;
use kmsfs::kms::audit::{Event, Keys, Log, Options};
use kmsfs::kms::service::{Call, Source};
use uuid::Uuid;

const ARN: &str = "arn:aws:kms:local:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// Events in one round of the throughput test.
const ROUND: u64 = 10_000;

fn event(principal: &Principal, parameters: &serde_json::Value) -> Event {
    let call = Call {
        principal,
        access_key: None,
        region: "local",
        source: Source::Process(4242),
        via_service: Some("kmsfs.local"),
        user_agent: "kmsfs",
        request_id: Uuid::from_u128(1),
    };
    let path = Some("/home/ada/letters/2026/november.txt".to_owned());
    Event::of(&call, "Decrypt", 1_795_000_000)
        .with_parameters(parameters)
        .with_key(ARN)
        .by_uid(1000)
        .in_volume(Uuid::from_u128(2), path)
}

fn parameters() -> serde_json::Value {
    serde_json::json!({
        "KeyId": ARN,
        "EncryptionContext": {
            "kmsfs:volume": "7d2ca0de-3f4e-4d65-8b1b-6b0a2f0a9c11",
            "kmsfs:kind": "file-gcm",
            "kmsfs:parent": "00112233445566778899aabbccddeeff",
        },
    })
}

fn log(folder: &tempfile::TempDir) -> Log {
    let keys = Keys::derive(&Secret::random());
    // All files are kept: pruning is no part of this.
    let options = Options { queue: 1 << 20, kept_files: 1 << 20, ..Options::default() };
    Log::open(folder.path(), keys, options).expect("the log opens")
}

fn caller(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let log = log(&folder);
    let (principal, parameters) = (Principal::user("ada"), parameters());
    let mut group = criterion.benchmark_group("audit/caller");
    group.bench_function("make an event", |bencher| {
        bencher.iter(|| black_box(event(&principal, &parameters)));
    });
    group.bench_function("record an allowed use", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            let mut left = rounds;
            while left > 0 {
                // In portions that fit into the queue: this is about the caller, not about waiting for room.
                let portion = left.min(ROUND);
                let events: Vec<Event> = (0..portion).map(|_| event(&principal, &parameters)).collect();
                let started = Instant::now();
                for event in events {
                    log.record(event).expect("recorded");
                }
                spent += started.elapsed();
                log.flush().expect("written");
                left -= portion;
            }
            spent
        });
    });
    let uses = log.repeated(event(&principal, &parameters));
    group.bench_function("count a repeated use", |bencher| bencher.iter(|| uses.count(black_box(1_795_000_000))));
    group.finish();
}

fn throughput(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let log = log(&folder);
    let (principal, parameters) = (Principal::user("ada"), parameters());
    let mut group = criterion.benchmark_group("audit/throughput");
    group.sample_size(10).throughput(Throughput::Elements(ROUND));
    group.bench_function("record and flush", |bencher| {
        bencher.iter(|| {
            for _ in 0..ROUND {
                log.record(event(&principal, &parameters)).expect("recorded");
            }
            log.flush().expect("written");
        });
    });
    group.finish();
}

criterion_group!(benches, caller, throughput);
criterion_main!(benches);
