//! The 512 bytes before each entry.

/// A header as it stands in the tar; offsets are POSIX's.
pub(super) struct Header([u8; BLOCK]);

/// Everything in a tar comes in blocks of this.
pub(super) const BLOCK: usize = 512;

impl Header {
    pub(super) fn new(block: [u8; BLOCK]) -> Self {
        Self(block)
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|&b| b == 0)
    }

    /// Whether the checksum is right, taken over unsigned or, as some have it, signed bytes.
    pub(super) fn is_valid(&self) -> bool {
        let Some(expected) = number(&self.0[148..156]) else { return false };
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        expected == unsigned || expected == signed
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    pub(super) fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        // star has times behind a shorter prefix.
        let end = if &self.0[508..512] == b"tar\0" { 476 } else { 500 };
        let prefix = if self.is_ustar() { text(&self.0[345..end]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Option<i64> {
        number(&self.0[100..108])
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Option<i64> {
        number(&self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(&self.0[136..148])
    }

    /// Major and minor; a header older than ustar has none.
    pub(super) fn device(&self) -> Option<(i64, i64)> {
        if self.is_ustar() || self.is_gnu() {
            Some((number(&self.0[329..337])?, number(&self.0[337..345])?))
        } else {
            Some((0, 0))
        }
    }

    /// The four pieces of GNU's sparse map that the header has room for.
    pub(super) fn sparse_pieces(&self) -> &[u8] {
        &self.0[386..482]
    }

    pub(super) fn sparse_goes_on(&self) -> bool {
        self.0[482] != 0
    }

    pub(super) fn sparse_real_size(&self) -> Option<i64> {
        number(&self.0[483..495])
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number: octal digits between spaces and zeros, or GNU's big-endian binary.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let &first = field.first()?;
    if first & 0x80 != 0 {
        // Two's complement; the top bit only marks the form.
        let negative = first & 0x40 != 0;
        let start: i64 = if negative { -1 } else { 0 };
        let first = if negative { first } else { first & 0x7f };
        let bytes = std::iter::once(first).chain(field[1..].iter().copied());
        return bytes
            .into_iter()
            .try_fold(start, |value, byte| value.checked_mul(256).map(|shifted| shifted | i64::from(byte)));
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(blank) && digits[end] != 0 {
        return None;
    }
    digits[..end].iter().try_fold(0i64, |value, &digit| {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_their_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"12345678"), None);
        assert_eq!(number(b"77777777"), Some(0o77_777_777));
        assert_eq!(number(b"64 4\0\0\0\0"), None);
        assert_eq!(number(b"\x80\0\0\0\x01\x00\x00\x00"), Some(1 << 24));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\x80\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
    }
}
