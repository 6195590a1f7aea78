//! How many data keys a second: in process, over the Unix socket, over loopback HTTP with signatures.
//!
//! `cargo bench -p kmsfs-bench --bench kms_api [-- SECONDS]`. Server and clients share the machine; each way runs with one client and with one for
//! each core, and every client waits for its answer before it asks again. The processor's time for a call, client and
//! server together, does not depend on what else the machine does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::crypto::derive;
use kmsfs::kms::api::{Client, Listen, Server};
use kmsfs::kms::audit::Options;
use kmsfs::kms::service::{Call, LOCAL_REGION, Service, Source};
use kmsfs::kms::{Keystore, LocalUser, Principal, UnlockSecret, Users};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use zeroize::Zeroizing;

struct Nobody;

impl Users for Nobody {
    fn by_uid(&self, _: u32) -> io::Result<Option<LocalUser>> {
        Ok(None)
    }

    fn by_name(&self, _: &str) -> io::Result<Option<LocalUser>> {
        Ok(None)
    }
}

/// The processor's time that this process has used, in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Calls a second, and microseconds of the processor for each.
type Rate = (f64, f64);

/// Runs `client` in so many threads, each until the time is over.
fn rate<C: FnMut()>(threads: usize, seconds: u64, client: impl Fn() -> C + Sync) -> Rate {
    let (start, cpu_before) = (Instant::now(), cpu());
    let calls: u64 = std::thread::scope(|scope| {
        let run = || {
            let (mut call, mut calls) = (client(), 0);
            while start.elapsed() < Duration::from_secs(seconds) {
                call();
                calls += 1;
            }
            calls
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("a client that ended well")).sum()
    });
    (calls as f64 / start.elapsed().as_secs_f64(), (cpu() - cpu_before) * 1e6 / calls as f64)
}

/// One request and its answer on a connection that stays open.
fn exchange(stream: &mut (impl Read + Write), request: &[u8]) {
    stream.write_all(request).expect("a server that listens");
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).expect("an answer");
    assert!(line.contains(" 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
}

fn request(host: &str, body: &str, more: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST / HTTP/1.1\r\ncontent-type: application/x-amz-json-1.1\r\nhost: {host}\r\n\
         x-amz-target: TrentService.GenerateDataKey\r\n{more}content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Signed once: the operation changes nothing, so the signature is good for five minutes, and is checked at each call.
fn signed(host: &str, body: &str, access_key: &Value) -> Vec<u8> {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let text = |name: &str| access_key[name].as_str().expect("a text").to_owned();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let names = "content-type;host;x-amz-date;x-amz-target";
    let canonical = format!(
        "POST\n/\n\ncontent-type:application/x-amz-json-1.1\nhost:{host}\nx-amz-date:{stamp}\n\
         x-amz-target:TrentService.GenerateDataKey\n\n{names}\n{}",
        hex(&derive::sha256(body.as_bytes()))
    );
    let scope = format!("{}/local/kms/aws4_request", &stamp[..8]);
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex(&derive::sha256(canonical.as_bytes())));
    let key = derive::sigv4_key(text("SecretAccessKey").as_bytes(), &stamp[..8], "local", "kms");
    let signature = hex(&derive::hmac(&key, &[to_sign.as_bytes()]));
    let id = text("AccessKeyId");
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
    request(host, body, &format!("x-amz-date: {stamp}\r\nauthorization: {authorization}\r\n"))
}

fn main() {
    let seconds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(3);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let base = tempfile::tempdir().expect("a temporary folder");
    let secret = UnlockSecret::passphrase(Zeroizing::new(b"bench".to_vec())).expect("a passphrase");
    let (keystore, _) = Keystore::create(&base.path().join("keystore"), &[secret], 1).expect("a keystore");
    let (dir, keys) = (keystore.dir().to_path_buf(), keystore.credential_keys());
    let service = Arc::new(Service::new(keystore, Options::default()).expect("a service"));
    let socket = base.path().join("socket");
    let listen = Listen { unix: Some(socket.clone()), tcp: Some(([127, 0, 0, 1], 0).into()), tls: None };
    let server = Server::bind(&dir, &listen, Arc::clone(&service), keys, Box::new(Nobody)).expect("a server");
    let host = server.url().expect("it listens on TCP").replace("http://", "");
    let stop = server.stopper();
    let running = std::thread::spawn(move || server.run(cores));
    let mut client = Client::connect(&socket).expect("a server");
    let key = client.call("CreateKey", &json!({})).expect("a key")["KeyMetadata"]["KeyId"].clone();
    let access_key = client.call("kmsfs.CreateAccessKey", &json!({})).expect("an access key")["AccessKey"].clone();
    let parameters = json!({ "KeyId": key, "KeySpec": "AES_256", "EncryptionContext": { "team": "blue" } });
    let body = parameters.to_string();
    let (over_unix, over_tcp) = (request("localhost", &body, ""), signed(&host, &body, &access_key));

    println!("{:<24} {:>32} {:>32}", "GenerateDataKey", "one client", format!("{cores} clients"));
    let show = |name: &str, rates: [Rate; 2]| {
        let [one, all] = rates.map(|(rate, cpu)| format!("{rate:.0} a second, {cpu:.1} us CPU"));
        println!("{name:<24} {one:>32} {all:>32}");
    };
    show(
        "in process",
        [1, cores].map(|threads| {
            rate(threads, seconds, || {
                let (service, parameters) = (&service, &parameters);
                move || {
                    let call = Call {
                        principal: &Principal::Root,
                        access_key: None,
                        region: LOCAL_REGION,
                        source: Source::Process(0),
                        via_service: None,
                        user_agent: "bench",
                        request_id: uuid::Uuid::nil(),
                    };
                    service.call(&call, "GenerateDataKey", parameters.clone()).expect("a data key");
                }
            })
        }),
    );
    show(
        "Unix socket",
        [1, cores].map(|threads| {
            rate(threads, seconds, || {
                let mut stream = UnixStream::connect(&socket).expect("a server");
                let request = &over_unix;
                move || exchange(&mut stream, request)
            })
        }),
    );
    show(
        "loopback HTTP, signed",
        [1, cores].map(|threads| {
            rate(threads, seconds, || {
                let mut stream = TcpStream::connect(&host).expect("a server");
                stream.set_nodelay(true).expect("a socket");
                let request = &over_tcp;
                move || exchange(&mut stream, request)
            })
        }),
    );
    stop.stop();
    running.join().expect("a thread that ended well").expect("a server that ended well");
}
