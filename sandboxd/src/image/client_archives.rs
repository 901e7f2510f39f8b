//! `sandboxd image import` and `export`: the bytes go over the socket, so that the daemon need not see the files
//! this program sees.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use sandboxd_api::console::images_client::ImagesClient;
use sandboxd_api::console::{self, ImportChunk};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::archives::CHUNK;
use super::client::refused;

type Client = ImagesClient<Channel>;

/// Sends an archive; a directory the daemon has to open itself.
pub(super) async fn import(
    client: &mut Client,
    file: &Path,
    name: String,
) -> anyhow::Result<console::ImportResponse> {
    if is_pipe(file) {
        ensure!(!io::stdin().is_terminal(), "no archive on standard input: pipe one in, or name its file");
        return send(client, Box::new(io::stdin()), name, "standard input").await;
    }
    if file.is_dir() {
        let path = std::path::absolute(file).with_context(|| format!("finding {}", file.display()))?;
        let path = path.into_os_string().into_string();
        let path = path.map_err(|path| anyhow::anyhow!("{path:?} is not UTF-8: rename it"))?;
        let answer = client.import(console::ImportRequest { path, name }).await.map_err(refused)?;
        return Ok(answer.into_inner());
    }
    let input = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    send(client, Box::new(input), name, &file.display().to_string()).await
}

async fn send(
    client: &mut Client,
    input: Box<dyn Read + Send>,
    name: String,
    what: &str,
) -> anyhow::Result<console::ImportResponse> {
    let (out, chunks) = mpsc::channel(4);
    let (done, mut outcome) = oneshot::channel();
    // A thread nobody waits for: the daemon may refuse while the input still has nothing to read.
    let reader = std::thread::Builder::new().name("archive".into());
    let sent = reader.spawn(move || done.send(read(input, &name, &out)));
    sent.context("starting a thread")?;
    let answer = client.import_stream(ReceiverStream::new(chunks)).await;
    // Where reading failed, all the daemon can say is that something is missing.
    if let Ok(read) = outcome.try_recv() {
        read.with_context(|| format!("reading {what}"))?;
    }
    Ok(answer.map_err(refused)?.into_inner())
}

/// Sends all of the input; after an error the last word is missing.
fn read(mut input: Box<dyn Read + Send>, name: &str, out: &mpsc::Sender<ImportChunk>) -> io::Result<()> {
    let mut name = name.to_owned();
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        (&mut input).take(CHUNK as u64).read_to_end(&mut data)?;
        let last = data.is_empty();
        // The daemon has ended the call: its answer says why.
        if out.blocking_send(ImportChunk { name: std::mem::take(&mut name), data, last }).is_err() || last {
            return Ok(());
        }
    }
}

/// Writes an archive to a file, which is there whole or not at all, or to standard output.
pub(super) async fn export(
    client: &mut Client,
    file: &Path,
    request: console::ExportRequest,
) -> anyhow::Result<()> {
    if is_pipe(file) {
        ensure!(
            !io::stdout().is_terminal(),
            "an archive is nothing for a terminal: redirect it, or name a file"
        );
        return receive(client, request, &mut io::stdout().lock()).await;
    }
    let mut name = file.file_name().context("the file has no name")?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = file.with_file_name(name);
    let mut output = File::create(&temporary).with_context(|| format!("making {}", temporary.display()))?;
    let written = receive(client, request, &mut output)
        .await
        .and_then(|()| fs::rename(&temporary, file).with_context(|| format!("naming {}", file.display())));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

async fn receive(
    client: &mut Client,
    request: console::ExportRequest,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut chunks = client.export_stream(request).await.map_err(refused)?.into_inner();
    let mut bytes = 0;
    while let Some(chunk) = chunks.message().await.map_err(refused)? {
        bytes += chunk.data.len();
        output.write_all(&chunk.data).context("writing the archive")?;
    }
    if bytes == 0 {
        bail!("the daemon sent nothing");
    }
    output.flush().context("writing the archive")
}

fn is_pipe(file: &Path) -> bool {
    file.as_os_str() == "-"
}
