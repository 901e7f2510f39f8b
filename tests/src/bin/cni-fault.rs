//! A CNI plugin that fails on purpose. It passes the previous result on, writes down every call, and does
//! what the files in its control directory say:
//!
//! | file | does |
//! |---|---|
//! | `fail-ADD`, `fail-DEL`, … | fails that command with code 100 and the file's words |
//! | `hang-ADD`, `hang-DEL`, … | sleeps until it is killed |
//! | `slow-ADD`, … | sleeps as many milliseconds as the file says |
//! | `garbage-ADD` | prints no JSON |

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let words = json!({ "cniVersion": "1.0.0", "code": 101, "msg": format!("cni-fault: {error:#}") });
            println!("{words}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let command = env::var("CNI_COMMAND").context("CNI_COMMAND is not set")?;
    if command == "VERSION" {
        let versions = ["0.3.1", "0.4.0", "1.0.0"];
        println!("{}", json!({ "cniVersion": "1.0.0", "supportedVersions": versions }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let conf: Value = serde_json::from_str(&text).context("the configuration on standard input")?;
    let control = PathBuf::from(conf["control"].as_str().context("no \"control\" in the configuration")?);
    note(&control, &command)?;

    let order = |what: &str| fs::read_to_string(control.join(format!("{what}-{command}"))).ok();
    if let Some(milliseconds) = order("slow") {
        sleep(Duration::from_millis(milliseconds.trim().parse()?));
    }
    if order("hang").is_some() {
        // A child that keeps the pipes open: killing the plugin alone would not end the call.
        let mut child = std::process::Command::new("sleep").arg("300").spawn()?;
        child.wait()?;
    }
    if let Some(words) = order("fail") {
        println!(
            "{}",
            json!({ "cniVersion": "1.0.0", "code": 100, "msg": words.trim(), "details": "on purpose" })
        );
        return Ok(ExitCode::FAILURE);
    }
    if order("garbage").is_some() {
        println!("this is not JSON");
        return Ok(ExitCode::SUCCESS);
    }
    if command == "ADD" {
        println!("{}", conf.get("prevResult").context("no prevResult")?);
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each call: command, container id, netns, whether there was a previous result.
fn note(control: &Path, command: &str) -> Result<()> {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let line = format!("{command} {} netns={}\n", variable("CNI_CONTAINERID"), variable("CNI_NETNS"));
    let mut file = fs::File::options().create(true).append(true).open(control.join("calls"))?;
    file.write_all(line.as_bytes()).context("writing down the call")
}
