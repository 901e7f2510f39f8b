//! Exec, Attach and PortForward: what is asked for is checked, the answer is a URL.

use sandboxd_api::cri;
use sandboxd_streaming::Wanted;

use super::validate::{Invalid, Why};
use super::{Cri, CriError};

impl Cri {
    pub(super) fn exec_url(&self, request: cri::ExecRequest) -> Result<String, CriError> {
        let streaming = self.streaming("Exec")?;
        let (container, command, wanted) = exec(request)?;
        Ok(streaming.exec(&container, command, wanted)?)
    }

    pub(super) fn attach_url(&self, request: &cri::AttachRequest) -> Result<String, CriError> {
        let streaming = self.streaming("Attach")?;
        let wanted = attach(request)?;
        Ok(streaming.attach(&request.container_id, wanted)?)
    }

    pub(super) fn port_forward_url(&self, request: &cri::PortForwardRequest) -> Result<String, CriError> {
        let streaming = self.streaming("PortForward")?;
        let ports = ports(request)?;
        Ok(streaming.port_forward(&request.pod_sandbox_id, ports)?)
    }
}

fn exec(request: cri::ExecRequest) -> Result<(String, Vec<String>, Wanted), Invalid> {
    let cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    container_given(&container_id)?;
    if cmd.first().is_none_or(String::is_empty) {
        return Err(Invalid::new("cmd", &cmd, Why::Missing));
    }
    if let Some((index, word)) = cmd.iter().enumerate().find(|(_, word)| word.contains('\0')) {
        return Err(Invalid::new(format!("cmd[{index}]"), word, Why::Nul));
    }
    Ok((container_id, cmd, wanted(Wanted { stdin, stdout, stderr, tty })?))
}

fn attach(request: &cri::AttachRequest) -> Result<Wanted, Invalid> {
    let cri::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    container_given(container_id)?;
    wanted(Wanted { stdin: *stdin, stdout: *stdout, stderr: *stderr, tty: *tty })
}

fn ports(request: &cri::PortForwardRequest) -> Result<Vec<u16>, CriError> {
    if request.pod_sandbox_id.is_empty() {
        return Err(CriError::NoId);
    }
    let port = |(index, port): (usize, &i32)| match u16::try_from(*port) {
        Ok(0) | Err(_) => Err(Invalid::new(format!("port[{index}]"), port, Why::ContainerPort)),
        Ok(port) => Ok(port),
    };
    let ports: Result<Vec<_>, _> = request.port.iter().enumerate().map(port).collect();
    Ok(ports?)
}

fn container_given(id: &str) -> Result<(), Invalid> {
    if id.is_empty() { Err(Invalid::new("container_id", id, Why::Missing)) } else { Ok(()) }
}

fn wanted(wanted: Wanted) -> Result<Wanted, Invalid> {
    if wanted.tty && wanted.stderr {
        return Err(Invalid::new("stderr", true, Why::StderrOfTerminal));
    }
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(Invalid::new("stdin, stdout and stderr", false, Why::NoStream));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> cri::ExecRequest {
        cri::ExecRequest {
            container_id: "c".into(),
            cmd: vec!["ls".into()],
            tty: false,
            stdin: false,
            stdout: true,
            stderr: true,
        }
    }

    #[test]
    fn an_exec_needs_a_container_a_command_and_a_stream() {
        assert_eq!(exec(request()).unwrap().1, ["ls"]);
        let refused = |request: cri::ExecRequest| exec(request).unwrap_err().to_string();
        for (request, text) in [
            (cri::ExecRequest { container_id: String::new(), ..request() }, r#"container_id = "": required"#),
            (cri::ExecRequest { cmd: vec![], ..request() }, "cmd = []: required"),
            (cri::ExecRequest { cmd: vec!["a".into(), "b\0".into()], ..request() }, "cmd[1] = "),
            (cri::ExecRequest { tty: true, ..request() }, "stderr = true: a terminal has one stream"),
            (
                cri::ExecRequest { stdout: false, stderr: false, ..request() },
                "stdin, stdout and stderr = false: no stream",
            ),
        ] {
            let refused = refused(request);
            assert!(refused.starts_with(text), "{refused}");
        }
        assert!(exec(cri::ExecRequest { tty: true, stderr: false, stdin: true, ..request() }).is_ok());
    }

    #[test]
    fn an_attach_needs_a_container_and_a_stream() {
        let none = cri::AttachRequest { container_id: "c".into(), ..Default::default() };
        assert!(attach(&none).is_err());
        assert!(attach(&cri::AttachRequest { stdin: true, ..none.clone() }).is_ok());
        assert!(attach(&cri::AttachRequest { stdin: true, container_id: String::new(), ..none }).is_err());
    }

    #[test]
    fn ports_are_ports() {
        let of = |port| ports(&cri::PortForwardRequest { pod_sandbox_id: "p".into(), port });
        assert!(of(vec![]).unwrap().is_empty());
        assert_eq!(of(vec![1, 65_535]).unwrap(), [1, 65_535]);
        for bad in [0, -1, 65_536] {
            let refused = of(vec![80, bad]).unwrap_err().to_string();
            assert_eq!(refused, format!("port[1] = {bad}: not a port: use 1 to 65535"));
        }
        assert!(matches!(ports(&cri::PortForwardRequest::default()), Err(CriError::NoId)));
    }
}
