//! A backend made of this machine's processes, and of servers in the test.

#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; tests may unwrap")]

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sandboxd_streaming::client::Endpoint;
use sandboxd_streaming::{
    Backend, BackendError, Connection, Exited, Server, Session, Settings, Size, Target, Urls, Wanted,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Counts what lives.
#[derive(Default)]
pub struct Fake {
    pub sessions: AtomicUsize,
}

struct Alive(Arc<Fake>);

impl Alive {
    fn new(fake: &Arc<Fake>) -> Self {
        fake.sessions.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(fake))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
pub struct Handle(pub Arc<Fake>);

/// A terminal that says the sizes it is given: nothing else of it is of interest here.
fn terminal(alive: Alive) -> Session {
    let (resize, mut sizes) = mpsc::channel::<Size>(4);
    let (mut inner, outer) = tokio::io::duplex(1024);
    let (typed, mut typing) = tokio::io::duplex(1024);
    let (done, end) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut word = String::new();
        let read = tokio::io::AsyncReadExt::read_to_string(&mut typing, &mut word);
        tokio::pin!(read);
        loop {
            tokio::select! {
                Some(size) = sizes.recv() => {
                    let line = format!("{}x{}\n", size.columns, size.rows);
                    inner.write_all(line.as_bytes()).await.unwrap();
                }
                _ = &mut read => break,
            }
        }
        inner.write_all(word.as_bytes()).await.unwrap();
        let _ = done.send(());
    });
    let exit = Box::pin(async move {
        let _alive = alive;
        end.await.unwrap();
        Ok(Exited::Code(0))
    });
    Session {
        stdin: Some(Box::new(typed)),
        stdout: Some(Box::new(outer)),
        stderr: None,
        resize: Some(resize),
        exit,
    }
}

#[async_trait::async_trait]
impl Backend for Handle {
    async fn exec(
        &self,
        container: &str,
        command: &[String],
        wanted: Wanted,
    ) -> Result<Session, BackendError> {
        if container != "c" {
            return Err(BackendError(format!("no container {container}")));
        }
        let alive = Alive::new(&self.0);
        if wanted.tty {
            return Ok(terminal(alive));
        }
        let pipe = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(pipe(wanted.stdin))
            .stdout(pipe(wanted.stdout))
            .stderr(pipe(wanted.stderr))
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| BackendError(error.to_string()))?;
        Ok(Session {
            stdin: child.stdin.take().map(|io| Box::new(io) as _),
            stdout: child.stdout.take().map(|io| Box::new(io) as _),
            stderr: child.stderr.take().map(|io| Box::new(io) as _),
            resize: None,
            exit: Box::pin(async move {
                let _alive = alive;
                let status = child.wait().await.map_err(|error| BackendError(error.to_string()))?;
                Ok(Exited::Code(status.code().unwrap_or(255)))
            }),
        })
    }

    /// Says hello, gives the input back, detaches at its end.
    async fn attach(&self, container: &str, _: Wanted) -> Result<Session, BackendError> {
        if container != "c" {
            return Err(BackendError(format!("no container {container}")));
        }
        let alive = Alive::new(&self.0);
        let (mut inner, outer) = tokio::io::duplex(1024);
        let (typed, mut typing) = tokio::io::duplex(1024);
        let (done, end) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            inner.write_all(b"hello\n").await.unwrap();
            tokio::io::copy(&mut typing, &mut inner).await.unwrap();
            drop(inner);
            let _ = done.send(());
        });
        Ok(Session {
            stdin: Some(Box::new(typed)),
            stdout: Some(Box::new(outer)),
            stderr: None,
            resize: None,
            exit: Box::pin(async move {
                let _alive = alive;
                end.await.unwrap();
                Ok(Exited::Ended)
            }),
        })
    }

    async fn connect(&self, pod: &str, port: u16) -> Result<Box<dyn Connection>, BackendError> {
        if pod != "p" {
            return Err(BackendError(format!("no pod {pod}")));
        }
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(socket) => Ok(Box::new(socket)),
            Err(error) => Err(BackendError(format!("IPv4: {error}"))),
        }
    }
}

/// A server that ends with the test.
pub struct Running {
    pub urls: Arc<Urls>,
    pub fake: Arc<Fake>,
    pub closing: CancellationToken,
    _end: DropGuard,
}

pub async fn serve() -> Running {
    serve_with(Settings::default()).await
}

pub async fn serve_with(settings: Settings) -> Running {
    let fake = Arc::new(Fake::default());
    let server = Server::bind(settings, Arc::new(Handle(Arc::clone(&fake)))).await.unwrap();
    let urls = server.urls();
    let closing = CancellationToken::new();
    tokio::spawn(server.run(closing.clone()));
    Running { urls, fake, closing: closing.clone(), _end: closing.drop_guard() }
}

pub const OUTPUT: Wanted = Wanted { stdin: false, stdout: true, stderr: true, tty: false };
pub const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
pub const TERMINAL: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };

impl Running {
    pub fn exec_url(&self, script: &str, wanted: Wanted) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.urls.url_for(Target::Exec { container: "c".into(), command, wanted }).unwrap()
    }

    pub fn exec(&self, script: &str, wanted: Wanted) -> Endpoint {
        Endpoint::new(&self.exec_url(script, wanted)).unwrap()
    }

    pub fn attach(&self, wanted: Wanted) -> Endpoint {
        let target = Target::Attach { container: "c".into(), wanted };
        Endpoint::new(&self.urls.url_for(target).unwrap()).unwrap()
    }

    pub fn forward(&self, ports: &[u16]) -> Endpoint {
        let target = Target::PortForward { pod: "p".into(), ports: ports.to_vec() };
        Endpoint::new(&self.urls.url_for(target).unwrap()).unwrap()
    }

    /// Waits until nothing of a session is left.
    pub async fn quiet(&self) {
        for _ in 0..200 {
            if self.fake.sessions.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("a session is left");
    }
}
