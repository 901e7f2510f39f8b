//! Lines of a log as CRI has them: `2026-11-25T13:05:37.123456789Z stdout F text`.

use sandboxd_api::console as api;

/// Runtimes cut lines at 16 KiB. What is longer was not written by one, and its end is dropped.
const LONGEST: usize = 128 << 10;

/// Makes lines of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// A line that has not ended.
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that end in these bytes.
    pub(super) fn of(&mut self, mut bytes: &[u8]) -> Vec<api::LogLine> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (rest, after) = bytes.split_at(end);
            if self.begun.is_empty() {
                lines.push(parse(rest.get(..LONGEST).unwrap_or(rest)));
            } else {
                self.keep(rest);
                lines.push(parse(&self.begun));
                self.begun.clear();
            }
            bytes = after.get(1..).unwrap_or_default();
        }
        self.keep(bytes);
        lines
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.begun.len());
        self.begun.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Forgets a line that will not end: its file is gone.
    pub(super) fn forget(&mut self) {
        self.begun.clear();
    }
}

/// One line. What is not in CRI's format is shown as it stands, without a time.
fn parse(line: &[u8]) -> api::LogLine {
    cri(line).unwrap_or_else(|| api::LogLine { text: line.to_vec(), ..api::LogLine::default() })
}

fn cri(line: &[u8]) -> Option<api::LogLine> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time: jiff::Timestamp = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stderr = match fields.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Further tags may come after a colon.
    let partial = match fields.next()?.split(|byte| *byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    let time_ns = i64::try_from(time.as_nanosecond()).ok()?;
    Some(api::LogLine { time_ns, stderr, partial, text: fields.next().unwrap_or_default().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[api::LogLine]) -> Vec<&str> {
        lines.iter().map(|line| std::str::from_utf8(&line.text).unwrap()).collect()
    }

    #[test]
    fn cri_lines_and_what_is_none() {
        let log = b"1970-01-01T00:00:01.5Z stdout F a b  c\n1970-01-01T01:00:02+01:00 stderr P half\n\
                    1970-01-01T00:00:03Z stdout F \n1970-01-01T00:00:03Z stdin F x\nnonsense\n";
        let lines = Lines::default().of(log);
        assert_eq!(texts(&lines), ["a b  c", "half", "", "1970-01-01T00:00:03Z stdin F x", "nonsense"]);
        let times: Vec<_> = lines.iter().map(|line| line.time_ns).collect();
        assert_eq!(times, [1_500_000_000, 2_000_000_000, 3_000_000_000, 0, 0]);
        assert!(lines[1].stderr && lines[1].partial && !lines[0].stderr && !lines[0].partial);
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let log = b"1970-01-01T00:00:01Z stdout F one\n1970-01-01T00:00:02Z stdout F two\nrest";
        for piece in 1..log.len() {
            let mut lines = Lines::default();
            let all: Vec<_> = log.chunks(piece).flat_map(|bytes| lines.of(bytes)).collect();
            assert_eq!(texts(&all), ["one", "two"], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_memory_than_the_longest() {
        let mut lines = Lines::default();
        for _ in 0..8 {
            assert!(lines.of(&[b'x'; 64 << 10]).is_empty());
        }
        let cut = lines.of(b"\nnext\n");
        assert_eq!((cut[0].text.len(), cut[1].text.as_slice()), (LONGEST, b"next".as_slice()));
    }
}
