//! Compiles the pause by itself: a freestanding program of its own, embedded by `src/pause.rs`.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=pause/pause.rs");
    let (Some(rustc), Some(out), Ok(target)) =
        (env::var_os("RUSTC"), env::var_os("OUT_DIR"), env::var("TARGET"))
    else {
        eprintln!("RUSTC, OUT_DIR and TARGET are cargo's to set: build with cargo");
        exit(1);
    };
    let out = PathBuf::from(out).join("pause");
    let status = Command::new(rustc)
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "--target", &target])
        .args(["-Cpanic=abort", "-Copt-level=z", "-Cstrip=symbols", "-Cforce-unwind-tables=no"])
        .args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
        .args([
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
            "-Clink-arg=-no-pie",
        ])
        // One page of file, headers and text together; no notes, no unwind table.
        .args(["-Clink-arg=-Wl,-n", "-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,-z,noseparate-code"])
        .args(["-Clink-arg=-Wl,--no-eh-frame-hdr", "-Clink-arg=-Wl,-z,norelro"])
        .arg("-o")
        .arg(&out)
        .arg("pause/pause.rs")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            eprintln!("rustc could not build pause/pause.rs: {status}");
            exit(1);
        }
        Err(error) => {
            eprintln!("rustc could not be started for pause/pause.rs: {error}");
            exit(1);
        }
    }
}
