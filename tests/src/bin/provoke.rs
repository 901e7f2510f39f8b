//! Runs one of the cases of `sandboxd_tests::provoke`, in a container: `provoke CASE DIRECTORY`. Ends with the errno
//! that the case's call failed with.

use std::path::Path;
use std::process::ExitCode;

use sandboxd_tests::provoke::{CASES, FILTERED};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, dir] = arguments.as_slice() else {
        eprintln!("usage: provoke CASE DIRECTORY");
        return ExitCode::FAILURE;
    };
    let Some(case) = CASES.iter().chain(FILTERED).find(|case| case.name == name) else {
        eprintln!("there is no case {name:?}");
        return ExitCode::FAILURE;
    };
    let status = u8::try_from(case.run(Path::new(dir)));
    ExitCode::from(status.unwrap_or(u8::MAX))
}
