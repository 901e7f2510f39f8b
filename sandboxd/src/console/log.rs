//! ReadLog: a container's log from its file, followed over its rotations.
//!
//! ```text
//!        ┌──────────── nothing new: wait ───────────┐
//!        ▼                                          │
//!  read to the end ──▶ another file at the path? ───┤
//!        ▲                │ yes: the rest of the old one, then
//!        └────────────────┘ its successor           └─▶ the container had ended before the reading: done
//! ```
//! One client's memory is a piece of the file, a line, and the messages on their way to it; a client that does not
//! read stops its own reading alone.

mod line;
mod tail;

use std::fs::File as StdFile;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use sandboxd_api::console as api;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tonic::Status;

use crate::container::LogPlace;
use line::Lines;

/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 200 });
/// Bytes read, and made one message of, at once.
const PIECE: usize = 64 << 10;
/// Messages on their way to one client.
pub(super) const IN_FLIGHT: usize = 2;

pub(super) type Out = mpsc::Sender<Result<api::ReadLogResponse, Status>>;

/// What a client wants to see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub follow: bool,
    /// 0: all.
    pub tail_lines: u32,
    pub since_ns: i64,
}

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    place: Arc<LogPlace>,
    file: File,
    lines: Lines,
    wanted: Wanted,
}

/// What is at the log's path.
#[derive(Debug)]
enum Now {
    /// The file that is read, or none for the moment.
    Same,
    /// It became shorter.
    Cut,
    Another(StdFile),
}

impl Log {
    /// Opens the file, where the last lines begin.
    ///
    /// # Errors
    /// When it is not there or no regular file.
    pub(super) async fn open(place: LogPlace, wanted: Wanted) -> Result<Self, Status> {
        let place = Arc::new(place);
        let opened = {
            let place = Arc::clone(&place);
            blocking(move || {
                let file = place.open()?;
                let start = match wanted.tail_lines {
                    0 => 0,
                    lines => tail::start(&file, lines)?,
                };
                Ok((file, start))
            })
            .await
        };
        let path = place.path().display();
        let (file, start) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Status::not_found(format!("the log {path} is gone: kubelet removes logs with their pods"))
            }
            _ => Status::failed_precondition(format!("the log {path} cannot be read: {error}")),
        })?;
        let mut log = Self { place, file: File::from_std(file), lines: Lines::default(), wanted };
        log.file.seek(SeekFrom::Start(start)).await.map_err(|error| log.failed(&error))?;
        Ok(log)
    }

    /// Sends the lines, until the client goes, or all is read and nothing more can come.
    pub(super) async fn send(mut self, ended: impl Fn() -> bool, out: Out) {
        if let Err(Some(status)) = self.run(ended, &out).await {
            let _ = out.send(Err(status)).await;
        }
    }

    /// `Err(None)`: the client went.
    async fn run(&mut self, ended: impl Fn() -> bool, out: &Out) -> Result<(), Option<Status>> {
        let follow = self.wanted.follow;
        loop {
            // Asked before the reading: what was written up to the end is in the file by then.
            let last = !follow || ended();
            self.read(out).await?;
            if !follow {
                return Ok(());
            }
            match self.now().await.map_err(|error| Some(self.failed(&error)))? {
                Now::Another(file) => {
                    // Its writer may have opened the new file a moment after we did.
                    if !last {
                        tokio::time::sleep(LOOK).await;
                    }
                    self.read(out).await?;
                    self.lines.forget();
                    self.file = File::from_std(file);
                    continue;
                }
                Now::Cut => {
                    self.lines.forget();
                    self.file.rewind().await.map_err(|error| Some(self.failed(&error)))?;
                    continue;
                }
                Now::Same if last => return Ok(()),
                Now::Same => {}
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = out.closed() => return Err(None),
            }
        }
    }

    /// Sends what is there.
    async fn read(&mut self, out: &Out) -> Result<(), Option<Status>> {
        let mut piece = vec![0u8; PIECE];
        loop {
            let count = self.file.read(&mut piece).await.map_err(|error| Some(self.failed(&error)))?;
            if count == 0 {
                return Ok(());
            }
            let mut lines = self.lines.of(piece.get(..count).unwrap_or_default());
            // A line without a time is as old as nobody knows.
            lines.retain(|line| line.time_ns == 0 || line.time_ns >= self.wanted.since_ns);
            if !lines.is_empty() {
                out.send(Ok(api::ReadLogResponse { lines })).await.map_err(|_| None)?;
            } else if out.is_closed() {
                return Err(None);
            }
        }
    }

    async fn now(&mut self) -> io::Result<Now> {
        let own = self.file.metadata().await?;
        if own.len() < self.file.stream_position().await? {
            return Ok(Now::Cut);
        }
        let place = Arc::clone(&self.place);
        blocking(move || match place.open() {
            Ok(file) => {
                let other = file.metadata()?;
                let same = (other.dev(), other.ino()) == (own.dev(), own.ino());
                Ok(if same { Now::Same } else { Now::Another(file) })
            }
            // Between the renaming and the new file, or removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Now::Same),
            Err(error) => Err(error),
        })
        .await
    }

    fn failed(&self, error: &io::Error) -> Status {
        Status::unavailable(format!("reading the log {}: {error}", self.place.path().display()))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn place(path: &Path) -> LogPlace {
        LogPlace::new(path.parent().unwrap().to_owned(), path.to_owned())
    }

    fn append(path: &Path, second: u32, text: &str) {
        let mut file = StdFile::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "1970-01-01T00:00:{second:02}Z stdout F {text}").unwrap();
    }

    struct Client {
        messages: mpsc::Receiver<Result<api::ReadLogResponse, Status>>,
        waiting: Vec<String>,
        ended: Arc<AtomicBool>,
    }

    impl Client {
        async fn new(path: &Path, wanted: Wanted) -> Self {
            let (out, messages) = mpsc::channel(IN_FLIGHT);
            let log = Log::open(place(path), wanted).await.unwrap();
            let ended = Arc::new(AtomicBool::new(false));
            let asked = Arc::clone(&ended);
            tokio::spawn(log.send(move || asked.load(Ordering::SeqCst), out));
            Self { messages, waiting: Vec::new(), ended }
        }

        /// The next line; `None`: the end.
        async fn next(&mut self) -> Option<String> {
            while self.waiting.is_empty() {
                let lines = self.messages.recv().await?.unwrap().lines.into_iter();
                self.waiting = lines.map(|line| String::from_utf8(line.text).unwrap()).collect();
            }
            Some(self.waiting.remove(0))
        }

        async fn rest(&mut self) -> Vec<String> {
            let mut rest = Vec::new();
            while let Some(line) = self.next().await {
                rest.push(line);
            }
            rest
        }
    }

    fn log() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        (dir, path)
    }

    #[tokio::test]
    async fn all_the_last_and_since() {
        let (_dir, path) = log();
        for n in 1..=5 {
            append(&path, n, &n.to_string());
        }
        let read = async |wanted| Client::new(&path, wanted).await.rest().await;
        assert_eq!(read(Wanted::default()).await, ["1", "2", "3", "4", "5"]);
        assert_eq!(read(Wanted { tail_lines: 2, ..Wanted::default() }).await, ["4", "5"]);
        assert_eq!(read(Wanted { since_ns: 3_000_000_000, ..Wanted::default() }).await, ["3", "4", "5"]);
    }

    #[tokio::test]
    async fn a_followed_log_goes_on_in_its_successor_and_ends_with_its_container() {
        let (dir, path) = log();
        append(&path, 1, "one");
        let mut client = Client::new(&path, Wanted { follow: true, ..Wanted::default() }).await;
        assert_eq!(client.next().await.unwrap(), "one");
        append(&path, 2, "two");
        assert_eq!(client.next().await.unwrap(), "two");
        let old = dir.path().join("0.log.1");
        std::fs::rename(&path, &old).unwrap();
        append(&old, 3, "after the renaming");
        assert_eq!(client.next().await.unwrap(), "after the renaming");
        append(&old, 4, "the old one's last");
        append(&path, 5, "new file");
        assert_eq!(client.next().await.unwrap(), "the old one's last");
        assert_eq!(client.next().await.unwrap(), "new file");
        append(&path, 6, "last");
        client.ended.store(true, Ordering::SeqCst);
        assert_eq!(client.rest().await, ["last"]);
    }

    #[tokio::test]
    async fn a_log_that_is_cut_is_read_from_its_beginning() {
        let (_dir, path) = log();
        append(&path, 1, "a longer line");
        let mut client = Client::new(&path, Wanted { follow: true, ..Wanted::default() }).await;
        assert_eq!(client.next().await.unwrap(), "a longer line");
        StdFile::options().write(true).truncate(true).open(&path).unwrap();
        append(&path, 2, "new");
        assert_eq!(client.next().await.unwrap(), "new");
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_refused_and_holds_up_nobody() {
        let (dir, path) = log();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused =
            |path: PathBuf| async move { Log::open(place(&path), Wanted::default()).await.unwrap_err() };
        assert_eq!(refused(path.clone()).await.code(), tonic::Code::FailedPrecondition);
        let link = dir.path().join("1.log");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert_eq!(refused(link).await.code(), tonic::Code::FailedPrecondition);
        assert_eq!(refused(dir.path().join("2.log")).await.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_stops_its_own_reading() {
        let (_dir, path) = log();
        for _ in 0..40 {
            append(&path, 1, &"x".repeat(16 << 10));
        }
        let mut slow = Client::new(&path, Wanted::default()).await;
        let mut quick = Client::new(&path, Wanted::default()).await;
        assert_eq!(quick.rest().await.len(), 40);
        assert!(slow.messages.len() <= IN_FLIGHT);
        assert_eq!(slow.rest().await.len(), 40, "nothing is lost to it");
    }
}
