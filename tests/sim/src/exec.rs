//! Commands that are not run: a shell that knows `exit N`, `size`, and repeats the rest.

use sandboxd_api::console::{
    ExecRequest, ExecResponse, ExecStart, TerminalSize, exec_request, exec_response,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::Shared;

/// What one session asked for and got.
#[derive(Debug, Clone, Default)]
pub struct Session {
    pub container_id: String,
    pub command: Vec<String>,
    pub tty: bool,
    /// Columns and rows, the newest last.
    pub sizes: Vec<(u32, u32)>,
    pub stdin: Vec<u8>,
    /// The client closed the stream, or the shell ended.
    pub ended: bool,
}

type Answers = mpsc::Sender<Result<ExecResponse, Status>>;

fn stdout(text: &str) -> Result<ExecResponse, Status> {
    Ok(ExecResponse { message: Some(exec_response::Message::Stdout(text.as_bytes().to_vec())) })
}

fn size_of(size: Option<TerminalSize>) -> (u32, u32) {
    size.map_or((0, 0), |size| (size.columns, size.rows))
}

/// Serves one session to its end.
pub(crate) async fn serve(
    shared: Shared,
    index: usize,
    start: ExecStart,
    mut requests: Streaming<ExecRequest>,
    answers: Answers,
) {
    let command = start.command.join(" ");
    if answers.send(stdout(&format!("{command} in a container that is not there\r\n$ "))).await.is_err() {
        return;
    }
    let mut line = Vec::new();
    while let Ok(Some(request)) = requests.message().await {
        match request.message {
            Some(exec_request::Message::Stdin(bytes)) => {
                shared.lock().sessions[index].stdin.extend(&bytes);
                for byte in bytes {
                    if byte != b'\r' && byte != b'\n' {
                        line.push(byte);
                        continue;
                    }
                    let typed = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                    if let Some(code) = typed.strip_prefix("exit") {
                        shared.lock().sessions[index].ended = true;
                        let code = code.trim().parse().unwrap_or(0);
                        let exit = ExecResponse { message: Some(exec_response::Message::ExitCode(code)) };
                        drop(answers.send(Ok(exit)).await);
                        return;
                    }
                    let (columns, rows) =
                        shared.lock().sessions[index].sizes.last().copied().unwrap_or_default();
                    let answer = match &*typed {
                        "size" => format!("{columns}x{rows}\r\n$ "),
                        _ => format!("you typed <{typed}>\r\n$ "),
                    };
                    if answers.send(stdout(&answer)).await.is_err() {
                        break;
                    }
                }
            }
            Some(exec_request::Message::Resize(size)) => {
                shared.lock().sessions[index].sizes.push(size_of(Some(size)));
            }
            Some(exec_request::Message::Start(_) | exec_request::Message::StdinClosed(_)) | None => {}
        }
    }
    shared.lock().sessions[index].ended = true;
}

/// Notes a session that begins; its index.
pub(crate) fn begin(shared: &Shared, start: &ExecStart) -> usize {
    let sessions = &mut shared.lock().sessions;
    sessions.push(Session {
        container_id: start.container_id.clone(),
        command: start.command.clone(),
        tty: start.tty,
        sizes: vec![size_of(start.size)],
        ..Session::default()
    });
    sessions.len() - 1
}
