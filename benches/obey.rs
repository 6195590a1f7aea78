//! What obedience costs: a data key is asked for with and without a user who needs leave, and recorded or not.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use kmsfs::kms::audit::{self, Keys, Log};
use kmsfs::kms::policy::Policy;
use kmsfs::kms::{Caller, EncryptionContext, Kms, LocalKms, MountAudit, Requester};
use tempfile::TempDir;

/// Lets users in by the label of a volume.
const BY_LABEL: &str = r#"{ "Version": "2012-10-17", "Statement": [{
    "Effect": "Allow", "Principal": "*", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*",
    "Condition": { "StringEquals": { "kms:ViaService": "kmsfs.local", "kms:EncryptionContext:team": "blue" } }
}] }"#;

/// A context as a file of a volume with a label has it.
fn context(parent: u32) -> EncryptionContext {
    let parent = format!("{parent:032x}");
    let volume = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
    let pairs = [("kmsfs:volume", volume), ("kmsfs:kind", "file-gcm"), ("kmsfs:parent", &parent), ("team", "blue")];
    EncryptionContext::new(pairs).expect("a context")
}

fn decrypt(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("decrypt");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let caller = Caller { uid: 1001, gid: 1001, pid: 1 };
    let path = || "/a/plain/path/of/some/file".to_owned();
    let user = Requester::user(&caller, &path);
    // The policy of volumes looks at no context; the other one does, so each context has a decision of its own.
    let by_label = Policy::parse(BY_LABEL).expect("a policy");
    for (name, policy, count) in [
        ("plain policy", Policy::mount_default(), 1000),
        ("by label", by_label.clone(), 1000),
        // More than are remembered.
        ("by label, decided anew", by_label, 40_000),
    ] {
        let (kms, key) = LocalKms::ephemeral_under(policy);
        let contexts: Vec<_> = (0..count).map(context).collect();
        let blobs: Vec<_> = contexts
            .iter()
            .map(|context| kms.generate_data_key(Requester::Own, &key, context).expect("a key").1.0)
            .collect();
        let mut at = 0;
        let mut next = || {
            at = (at + 1) % contexts.len();
            (&blobs[at], &contexts[at])
        };
        group.bench_function(format!("{name}, own"), |b| {
            b.iter(|| {
                let (blob, context) = next();
                black_box(kms.decrypt(Requester::Own, blob, context).is_ok())
            });
        });
        group.bench_function(format!("{name}, user"), |b| {
            b.iter(|| {
                let (blob, context) = next();
                assert!(kms.decrypt(user, blob, context).is_ok());
            });
        });
    }
    group.finish();
}

fn recorded(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("recorded");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    let caller = Caller { uid: 1001, gid: 1001, pid: 1 };
    let path = || "/a/plain/path/of/some/file".to_owned();
    let dir = TempDir::new().expect("a folder");
    let (kms, key) = LocalKms::ephemeral();
    let keys = Keys::derive(&kmsfs::crypto::Secret::random());
    let log = Log::open(&dir.path().join("audit"), keys, audit::Options::default()).expect("a log");
    kms.record_to(MountAudit { log, volume: Some(uuid::Uuid::nil()), paths: true });
    let context = context(1);
    let (_, blob) = kms.generate_data_key(Requester::Own, &key, &context).expect("a key");
    let used = || assert!(kms.decrypt(Requester::user(&caller, &path), &blob.0, &context).is_ok());
    // What the user waits for: opens do not come faster than lines are written.
    group.bench_function("user, with a line each", |b| {
        b.iter_custom(|count| {
            let mut took = Duration::ZERO;
            let mut left = count;
            while left > 0 {
                let burst = left.min(1000);
                let started = Instant::now();
                (0..burst).for_each(|_| used());
                took += started.elapsed();
                kms.flush_record();
                left -= burst;
            }
            took
        });
    });
    group.bench_function("user, in a flood", |b| b.iter(used));
    group.bench_function("own, counted", |b| {
        b.iter(|| assert!(kms.decrypt(Requester::Own, &blob.0, &context).is_ok()));
    });
    group.finish();
}

criterion_group!(benches, decrypt, recorded);
criterion_main!(benches);
