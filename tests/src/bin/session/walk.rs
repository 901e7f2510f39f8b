//! What the operator looks at: each view, the containers and logs of each pod, and why each check was denied. What
//! is not looked at is not in a recording.

use std::thread::sleep;
use std::time::Duration;

use sandboxd_pty::Pty;

/// The usage of containers is read every two seconds, and has a rate from the second reading on.
const TWO_READINGS: Duration = Duration::from_millis(2_600);
/// More than there are denied checks on the node.
const DENIED: usize = 8;

const ESC: &[u8] = b"\x1b";
const ENTER: &[u8] = b"\r";

pub fn through(console: &mut Pty) {
    for (view, seen) in [("5", "orders-db-0"), ("6", "LEAKED"), ("7", "pod-failed"), ("8", " fine, ")] {
        console.press(view.as_bytes());
        console.wait_for(&format!("[{view} "));
        console.wait_for(seen);
    }
    denied(console);
    for pod in ["web", "orders", "builder", "node-exporter", "report", "old-order"] {
        containers(console, pod);
    }
}

/// Opens each denied check, the newest first.
fn denied(console: &mut Pty) {
    console.press(b"3dG");
    console.wait_for("[3 Checks]");
    // A frame comes in pieces: only what is gone as well says that it is whole.
    let whole = |words: &'static str, gone: &'static str| {
        move |screen: &str| screen.contains(words) && !screen.contains(gone)
    };
    for _ in 0..DENIED {
        console.press(b"w");
        console.wait_until("the explanation", whole("Sources", "[3 Checks]"));
        console.press(ESC);
        console.wait_until("the checks", whole("[3 Checks]", "Sources"));
        console.press(b"k");
    }
    console.press(b"d");
}

fn containers(console: &mut Pty, pod: &str) {
    console.press(b"1/");
    console.press(pod.as_bytes());
    console.press(ENTER);
    console.wait_for(&format!("/{pod}"));
    console.press(ENTER);
    console.wait_for("Pods ▸");
    sleep(TWO_READINGS);
    if pod == "old-order" {
        // It failed before it had a container.
        return console.press(ESC);
    }
    console.press(b"l");
    console.wait_for("log of");
    console.wait_until("the log", |screen| screen.contains(" line"));
    sleep(Duration::from_millis(300));
    // Back to the pods, and their filter off.
    console.press(ESC);
    console.wait_gone("log of");
    console.press(ESC);
    console.wait_for("[1 Pods]");
    console.press(ESC);
    console.wait_gone(&format!("/{pod}"));
}
