//! Much data, and clients that are slow.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod common;

use std::io::Read;
use std::time::Duration;

use common::{ALL, OUTPUT, serve};
use sandboxd_streaming::client::{Channels, Remote};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const MANY: usize = 50 << 20;

/// A checksum that notices order.
fn sum(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, &byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn block(n: usize) -> Vec<u8> {
    (0..32 << 10).map(|i| u8::try_from((n * 31 + i * 7) % 253).unwrap()).collect()
}

#[tokio::test]
async fn fifty_megabytes_there_and_back_over_spdy() {
    let server = serve().await;
    let mut remote = Remote::open(&server.exec("cat", ALL), &[V4], ALL).await.unwrap();
    let mut stdin = remote.stdin.take().unwrap();
    let typing = tokio::spawn(async move {
        let mut state = 0;
        for n in 0..MANY / (32 << 10) {
            let block = block(n);
            state = sum(state, &block);
            stdin.write_all(&block).await.unwrap();
        }
        stdin.shutdown().await.unwrap();
        state
    });
    let (mut state, mut total) = (0, 0);
    let mut buffer = vec![0; 64 << 10];
    let stdout = remote.stdout.as_mut().unwrap();
    loop {
        let read = stdout.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        state = sum(state, &buffer[..read]);
        total += read;
    }
    assert_eq!(total, MANY);
    assert_eq!(typing.await.unwrap(), state);
}

#[tokio::test]
async fn fifty_megabytes_over_websocket() {
    let server = serve().await;
    let endpoint = server.exec("head -c 52428800 /dev/zero", OUTPUT);
    let mut channels = Channels::open(&endpoint, &[V5]).await.unwrap();
    let all = channels.outcome().await.unwrap();
    assert_eq!(all[1].len(), MANY);
    assert!(all[1].iter().all(|byte| *byte == 0));
}

fn resident() -> usize {
    let mut text = String::new();
    std::fs::File::open("/proc/self/statm").unwrap().read_to_string(&mut text).unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Clients that read nothing of an endless output: memory stays where it is.
#[tokio::test]
async fn slow_readers_cost_no_memory() {
    let server = serve().await;
    let mut spdy = Vec::new();
    let mut websocket = Vec::new();
    let before = resident();
    for _ in 0..5 {
        spdy.push(Remote::open(&server.exec("cat /dev/zero", OUTPUT), &[V4], OUTPUT).await.unwrap());
        websocket.push(Channels::open(&server.exec("cat /dev/zero", OUTPUT), &[V5]).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 40 << 20, "ten idle clients cost {} MiB", grown >> 20);
    drop((spdy, websocket));
    server.quiet().await;
}
