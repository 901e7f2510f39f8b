//! Lines as CRI wants them: `2026-11-25T08:00:00.123456789Z stdout F text`.
//!
//! The tag is `F` for a full line, `P` for a part that the next record of the stream goes on with: a line is cut
//! after [`MAX_LINE`] bytes, as containerd does by default, and what a stream ends with, without a newline, is a
//! part too. Nothing is added or taken away: the parts and lines, put together, are the stream (a terminal's
//! carriage returns included). The time is UTC with all nine digits, which every reader of RFC 3339 takes and
//! which sorts; kubelet prints the same.

use rustix::time::{ClockId, clock_gettime};

use super::Output;

/// Longest text of a record.
pub const MAX_LINE: usize = 16 * 1024;
/// Length of what stands before the text.
pub const HEADER: usize = "2026-11-25T08:00:00.123456789Z stdout F ".len();
/// Where the tag stands in it.
const TAG: usize = HEADER - 2;
const SECONDS_A_DAY: i64 = 86_400;

/// What a record starts with, for one read.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    full: [u8; HEADER],
    part: [u8; HEADER],
}

/// Whether a record (its header at least) is a full line.
pub fn is_full(record: &[u8]) -> bool {
    record.get(TAG) == Some(&b'F')
}

impl Stamp {
    pub fn now(output: Output) -> Self {
        let now = clock_gettime(ClockId::Realtime);
        Self::at(now.tv_sec, now.tv_nsec, output)
    }

    fn at(seconds: i64, nanos: i64, output: Output) -> Self {
        let mut full = *b"0000-00-00T00:00:00.000000000Z stdout F ";
        if output == Output::Stderr {
            full[31..37].copy_from_slice(b"stderr");
        }
        let (year, month, day) = civil(seconds.div_euclid(SECONDS_A_DAY));
        let second = seconds.rem_euclid(SECONDS_A_DAY);
        for (range, value) in [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, second / 3600),
            (14..16, second / 60 % 60),
            (17..19, second % 60),
            (20..29, nanos),
        ] {
            digits(full.get_mut(range).unwrap_or_default(), value);
        }
        let mut part = full;
        part[TAG] = b'P';
        Self { full, part }
    }

    /// A record of a part, in `room`.
    pub fn partial<'a>(&self, text: &[u8], room: &'a mut [u8]) -> Option<&'a [u8]> {
        let end = put(room, 0, &self.part, text)?;
        room.get(..end)
    }
}

/// Writes a number's last digits.
fn digits(place: &mut [u8], value: i64) {
    let mut rest = value.unsigned_abs();
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
}

/// Year, month and day of a day since 1970-01-01 in the proleptic Gregorian calendar, years counted from March so
/// that the leap day is the last one (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// Formats the complete lines of `bytes`, the first `scanned` of which are known to have no newline. Full
/// batches, each of whole records, go to `write`. Returns the line that is only begun.
pub fn format<'a>(
    bytes: &'a [u8],
    scanned: usize,
    stamp: &Stamp,
    room: &mut [u8],
    mut write: impl FnMut(&[u8]),
) -> &'a [u8] {
    let mut used = 0;
    let mut add = |header: &[u8; HEADER], text: &[u8]| {
        if used + HEADER + text.len() + 1 > room.len() {
            write(room.get(..used).unwrap_or_default());
            used = 0;
        }
        used = put(room, used, header, text).unwrap_or(used);
    };
    let mut start = 0;
    for newline in memchr::memchr_iter(b'\n', bytes.get(scanned..).unwrap_or_default()) {
        let mut line = bytes.get(start..scanned + newline).unwrap_or_default();
        while let Some((part, rest)) = line.split_at_checked(MAX_LINE).filter(|(_, rest)| !rest.is_empty()) {
            add(&stamp.part, part);
            line = rest;
        }
        add(&stamp.full, line);
        start = scanned + newline + 1;
    }
    let mut begun = bytes.get(start..).unwrap_or_default();
    while let Some((part, rest)) = begun.split_at_checked(MAX_LINE).filter(|(_, rest)| !rest.is_empty()) {
        add(&stamp.part, part);
        begun = rest;
    }
    if used > 0 {
        write(room.get(..used).unwrap_or_default());
    }
    begun
}

/// Puts a record at `at`: where it ends, if there is room.
fn put(room: &mut [u8], at: usize, header: &[u8; HEADER], text: &[u8]) -> Option<usize> {
    let place = room.get_mut(at..at + HEADER + text.len() + 1)?;
    let (head, tail) = place.split_at_mut(HEADER);
    head.copy_from_slice(header);
    let (body, newline) = tail.split_at_mut(text.len());
    body.copy_from_slice(text);
    newline.copy_from_slice(b"\n");
    Some(at + HEADER + text.len() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64, nanos: i64) -> String {
        String::from_utf8(Stamp::at(seconds, nanos, Output::Stderr).full.to_vec()).unwrap()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(stamp(0, 0), "1970-01-01T00:00:00.000000000Z stderr F ");
        assert_eq!(stamp(951_868_799, 1), "2000-02-29T23:59:59.000000001Z stderr F ");
        assert_eq!(stamp(951_868_800, 0), "2000-03-01T00:00:00.000000000Z stderr F ");
        assert_eq!(stamp(1_735_689_599, 999_999_999), "2024-12-31T23:59:59.999999999Z stderr F ");
        assert_eq!(stamp(4_107_542_400, 120), "2100-03-01T00:00:00.000000120Z stderr F ");
    }

    /// The records' tags and the lengths of their texts.
    fn records(bytes: &[u8]) -> (Vec<(char, usize)>, usize) {
        let mut out = Vec::new();
        let mut room = vec![0; 64 * 1024];
        let rest =
            format(bytes, 0, &Stamp::at(0, 0, Output::Stdout), &mut room, |batch| out.extend(batch.to_vec()));
        let lines = out.split_inclusive(|b| *b == b'\n');
        (lines.map(|line| (char::from(line[TAG]), line.len() - HEADER - 1)).collect(), rest.len())
    }

    #[test]
    fn a_line_is_cut_only_when_it_is_longer_than_the_limit() {
        let line = |length: usize| [vec![b'x'; length], b"\n".to_vec()].concat();
        assert_eq!(records(&line(MAX_LINE)), (vec![('F', MAX_LINE)], 0));
        assert_eq!(records(&line(MAX_LINE + 1)), (vec![('P', MAX_LINE), ('F', 1)], 0));
        assert_eq!(records(&line(2 * MAX_LINE)), (vec![('P', MAX_LINE), ('F', MAX_LINE)], 0));
        assert_eq!(records(&vec![b'x'; MAX_LINE]), (vec![], MAX_LINE));
        assert_eq!(records(&vec![b'x'; MAX_LINE + 1]), (vec![('P', MAX_LINE)], 1));
        assert_eq!(records(b"\n\na\nbc"), (vec![('F', 0), ('F', 0), ('F', 1)], 2));
    }
}
