//! `sandboxd image`: talks to the running daemon over its two sockets.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use hyper_util::rt::TokioIo;
use sandboxd_api::console::images_client::ImagesClient;
use sandboxd_api::cri::image_service_client::ImageServiceClient;
use sandboxd_api::{MAX_MESSAGE_SIZE, console, cri};
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};

use super::client_archives;
use crate::config::Config;

/// What is done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    List {
        /// One image, or those of a repository
        reference: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Pull an image from its registry
    Pull {
        reference: String,
        /// Name and password for the registry; the password is read from standard input where it is left out
        #[arg(long, value_name = "USER[:PASSWORD]")]
        creds: Option<String>,
        /// Ask the registry over plain http
        #[arg(long)]
        plain_http: bool,
        /// Print the image's id only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove images with all their names
    Remove {
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Bring in all images of an archive: an OCI layout (a directory or a tar), or a tar of `docker save`
    Import {
        /// "-": standard input
        file: PathBuf,
        /// The name of an image that has none in the archive, or the repository of its tags
        #[arg(long)]
        name: Option<String>,
    },
    /// Write images into an archive
    Export {
        /// "-": standard output
        file: PathBuf,
        #[arg(required = true)]
        references: Vec<String>,
        /// "oci" (blobs as they came) or "docker" (for `docker load`)
        #[arg(long, default_value = "oci", value_parser = ["oci", "docker"])]
        format: String,
    },
}

/// Carries a command out.
///
/// # Errors
/// When the daemon cannot be reached or refuses; the message is the daemon's.
pub async fn run(command: ImageCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        ImageCommand::List { reference, json } => list(config, reference, json).await,
        ImageCommand::Pull { reference, creds, plain_http, quiet } => {
            let (username, password) = creds.map(credentials).transpose()?.unwrap_or_default();
            pull(config, console::PullRequest { reference, username, password, plain_http }, quiet).await
        }
        ImageCommand::Remove { references } => remove(config, references).await,
        ImageCommand::Import { file, name } => import(config, &file, name).await,
        ImageCommand::Export { file, references, format } => {
            let request = console::ExportRequest { path: String::new(), format, references };
            client_archives::export(&mut console_of(config).await?, &file, request).await
        }
    }
}

async fn list(config: &Config, reference: Option<String>, json: bool) -> anyhow::Result<()> {
    let filter = reference.map(|image| cri::ImageFilter { image: Some(spec(image)) });
    let answer =
        cri_of(config).await?.list_images(cri::ListImagesRequest { filter }).await.map_err(refused)?;
    let images = answer.into_inner().images;
    let mut out = String::new();
    if json {
        let value = |image: &cri::Image| {
            serde_json::json!({
                "id": image.id, "repoTags": image.repo_tags, "repoDigests": image.repo_digests,
                "size": image.size, "uid": image.uid.as_ref().map(|uid| uid.value),
                "username": image.username, "pinned": image.pinned,
            })
        };
        let images: Vec<_> = images.iter().map(value).collect();
        out = serde_json::to_string_pretty(&serde_json::json!({ "images": images }))? + "\n";
    } else {
        let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
        for image in &images {
            let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
            let id: String = id.chars().take(12).collect();
            let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
            let none = ["<none>".to_owned()];
            for name in if names.is_empty() { &none[..] } else { names } {
                rows.push([name.clone(), id.clone(), size(image.size)]);
            }
        }
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
        let (first, second) = (width(0), width(1));
        for [name, id, size] in &rows {
            out.push_str(&format!("{name:first$}  {id:second$}  {size}\n"));
        }
    }
    print(&out)
}

async fn pull(config: &Config, request: console::PullRequest, quiet: bool) -> anyhow::Result<()> {
    let mut stream = console_of(config).await?.pull(request).await.map_err(refused)?.into_inner();
    let live = !quiet && std::io::stderr().is_terminal();
    while let Some(message) = stream.next().await {
        let message = message.map_err(|status| {
            if live {
                eprintln!();
            }
            refused(status)
        })?;
        if !message.image_id.is_empty() {
            if live {
                eprintln!();
            }
            return print(&format!("{}\n", message.image_id));
        }
        if let Some(progress) = message.progress.filter(|_| live) {
            eprint!("\r\x1b[K{}", progress_line(&progress));
        }
    }
    bail!("the daemon ended before the image was there: pull it again")
}

fn progress_line(progress: &console::PullProgress) -> String {
    let (done, total) = progress.layers.iter().fold((0, 0), |sum, l| (sum.0 + l.done, sum.1 + l.total));
    let ready = progress.layers.iter().filter(|layer| layer.state == "done").count();
    let layers = progress.layers.len();
    format!("{}: {} of {}, {ready} of {layers} layers ready", progress.state, size(done), size(total))
}

async fn remove(config: &Config, references: Vec<String>) -> anyhow::Result<()> {
    let mut client = cri_of(config).await?;
    for reference in references {
        let asked = cri::ImageStatusRequest { image: Some(spec(reference.clone())), verbose: false };
        let there = client.image_status(asked).await.map_err(refused)?.into_inner().image;
        let Some(image) = there else {
            bail!("there is no image {reference:?}: `sandboxd image list` shows what is there")
        };
        let request = cri::RemoveImageRequest { image: Some(spec(image.id.clone())) };
        client.remove_image(request).await.map_err(refused)?;
        print(&format!("{}\n", image.id))?;
    }
    Ok(())
}

async fn import(config: &Config, file: &Path, name: Option<String>) -> anyhow::Result<()> {
    let mut client = console_of(config).await?;
    for image in client_archives::import(&mut client, file, name.unwrap_or_default()).await?.images {
        let names = if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names };
        for name in names {
            print(&format!("{}  {name}\n", image.id))?;
        }
    }
    Ok(())
}

fn spec(image: String) -> cri::ImageSpec {
    cri::ImageSpec { image, ..cri::ImageSpec::default() }
}

/// "user:password"; a password on standard input is not in the list of processes.
fn credentials(text: String) -> anyhow::Result<(String, String)> {
    if let Some((user, password)) = text.split_once(':') {
        return Ok((user.to_owned(), password.to_owned()));
    }
    let mut password = String::new();
    std::io::stdin().read_line(&mut password).context("reading the password from standard input")?;
    Ok((text, password.trim_end_matches(['\r', '\n']).to_owned()))
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// The daemon's words are the message.
#[expect(clippy::needless_pass_by_value, reason = "a map_err argument")]
pub(super) fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

async fn cri_of(config: &Config) -> anyhow::Result<ImageServiceClient<Channel>> {
    let channel = connect(&config.cri_socket, "--cri-socket").await?;
    Ok(ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE))
}

async fn console_of(config: &Config) -> anyhow::Result<ImagesClient<Channel>> {
    let channel = connect(&config.console_socket, "--console-socket").await?;
    Ok(ImagesClient::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE))
}

async fn connect(path: &Path, flag: &str) -> anyhow::Result<Channel> {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://sandboxd.invalid");
    endpoint.connect_with_connector(connector).await.with_context(|| {
        format!("no daemon answers on {}: start sandboxd, or name its socket with {flag}", path.display())
    })
}

/// A reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
