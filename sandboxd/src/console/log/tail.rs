//! Where the last lines of a file begin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes looked at at once.
const PIECE: u64 = 64 << 10;

/// The offset of the last so many lines. A last one without its newline counts.
pub(super) fn start(file: &File, lines: u32) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let (mut missing, mut last) = (u64::from(lines), true);
    let mut buffer = vec![0u8; usize::try_from(PIECE.min(end.max(1))).unwrap_or(0)];
    while end > 0 {
        let begin = end.saturating_sub(buffer.len() as u64);
        let piece = buffer.get_mut(..usize::try_from(end - begin).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(piece, begin)?;
        for (at, byte) in piece.iter().enumerate().rev() {
            // The newline at the very end ends the last line, and begins none.
            let ends_file = std::mem::take(&mut last);
            if *byte == b'\n' && !ends_file {
                missing -= 1;
                if missing == 0 {
                    return Ok(begin + at as u64 + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(text: &str, lines: u32) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let start = start(file.as_file(), lines).unwrap();
        text[usize::try_from(start).unwrap()..].to_owned()
    }

    #[test]
    fn the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 1), "c\n");
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(tail("a\nb\nc\n", 3), "a\nb\nc\n");
        assert_eq!(tail("a\nb\nc\n", 9), "a\nb\nc\n");
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("", 5), "");
        assert_eq!(tail("\n\n", 1), "\n");
    }

    #[test]
    fn over_the_edges_of_pieces() {
        let line = "x".repeat(50_000) + "\n";
        let text = line.repeat(5);
        assert_eq!(tail(&text, 3), line.repeat(3));
    }
}
