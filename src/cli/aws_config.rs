//! `kmsfs aws-config`: a profile with which AWS's programs find the server and get credentials by themselves.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::credentials::ServerArgs;
use super::failure::{Code, Failure};
use super::output;
use crate::kms::api::ENDPOINT;
use crate::kms::service::LOCAL_REGION;

/// Arguments of `kmsfs aws-config`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The name of the profile
    #[arg(long, value_name = "NAME", default_value = "kmsfs")]
    profile: String,
    /// The URL of the server [default: where it listens]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The region, which the ARNs of keys will name
    #[arg(long, value_name = "NAME", default_value = LOCAL_REGION)]
    region: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.profile.chars().any(|c| c.is_control() || "[]#;\"".contains(c)) {
        return Err(Failure::new(Code::Usage, "--profile", "that is no name for a profile", "use letters and digits"));
    }
    let answer = args.server.connect()?.call(ENDPOINT, &json!({}))?;
    let known = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
    let endpoint = args.endpoint.clone().or_else(|| known("Endpoint")).ok_or_else(|| {
        let next = "start it with kmsfs serve --listen 127.0.0.1:PORT: AWS's programs speak TCP only";
        Failure::new(Code::Other, "no endpoint", "the server listens on no TCP address", next)
    })?;
    let program = std::env::current_exe().map_err(|error| Failure::io(Path::new("/proc/self/exe"), "find", &error))?;
    let mut command = format!("{} credentials", quoted(&program)?);
    // The socket for all users, if there is one: the profile may be another user's.
    if let Some(socket) = args.server.unix.clone().or_else(|| known("Socket").map(PathBuf::from)) {
        let socket = std::path::absolute(&socket).map_err(|error| Failure::io(&socket, "find", &error))?;
        command.push_str(&format!(" --unix {}", quoted(&socket)?));
    } else {
        command.push_str(&format!(" --keystore {}", quoted(&args.server.keystore_dir()?)?));
    }
    output::line(format!(
        "[profile {}]\nregion = {}\nendpoint_url = {endpoint}\ncredential_process = {command}",
        args.profile, args.region
    ))
}

/// As one word of the command line that AWS's programs take apart.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().filter(|text| !text.chars().any(|c| c.is_control() || "\"\\'".contains(c)));
    let Some(text) = text else {
        let next = "use another path, without quotes and backslashes";
        return Err(Failure::new(Code::Usage, path.display(), "this path cannot be written into a profile", next));
    };
    Ok(if text.contains(' ') { format!("\"{text}\"") } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_spaces_are_quoted_and_those_with_quotes_refused() {
        assert_eq!(quoted(Path::new("/a/b")).unwrap(), "/a/b");
        assert_eq!(quoted(Path::new("/a b")).unwrap(), "\"/a b\"");
        for path in ["/a\"b", "/a'b", "/a\\b", "/a\nb"] {
            assert_eq!(quoted(Path::new(path)).unwrap_err().code, Code::Usage);
        }
    }
}
