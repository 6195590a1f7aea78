//! The `kmsfs` command; everything is in `kmsfs::cli`.

fn main() -> std::process::ExitCode {
    kmsfs::cli::run(std::env::args_os().collect())
}
