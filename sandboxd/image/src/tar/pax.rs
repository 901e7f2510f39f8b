//! PAX extended headers: "length key=value\n", and the keys that matter.

use super::TarError;

/// What an extended header says of the entry behind it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Seconds, nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Name, value; of the same name twice the last.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
}

/// GNU's three ways to say that a file is sparse.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Offsets and lengths, in turn.
    pub map: Vec<u64>,
}

/// Reads a whole extended header.
pub(super) fn parse(mut bytes: &[u8], at: u64) -> Result<Pax, TarError> {
    let extended = |why| TarError::Extended { at, why };
    let mut pax = Pax::default();
    while !bytes.is_empty() {
        let space =
            bytes.iter().take(20).position(|&b| b == b' ').ok_or(extended("has a record without length"))?;
        let length = decimal(&bytes[..space]).and_then(|n| usize::try_from(n).ok());
        let length = length
            .filter(|&n| n > space + 1 && n <= bytes.len())
            .ok_or(extended("has a record of a wrong length"))?;
        let (record, rest) = bytes.split_at(length);
        bytes = rest;
        let record =
            record[space + 1..].strip_suffix(b"\n").ok_or(extended("has a record without its end"))?;
        let equals =
            record.iter().position(|&b| b == b'=').ok_or(extended("has a record without a value"))?;
        apply(&mut pax, &record[..equals], &record[equals + 1..], at)?;
    }
    Ok(pax)
}

fn apply(pax: &mut Pax, key: &[u8], value: &[u8], at: u64) -> Result<(), TarError> {
    let number = |field| decimal(value).ok_or(TarError::Number { at, field });
    // An empty value takes the key back: the plain header counts.
    let given = !value.is_empty();
    let name = || -> Result<Option<Vec<u8>>, TarError> {
        if value.contains(&0) {
            return Err(TarError::Extended { at, why: "has a name with a zero byte" });
        }
        Ok(given.then(|| value.to_vec()))
    };
    match key {
        b"path" => pax.path = name()?,
        b"linkpath" => pax.link = name()?,
        b"size" => pax.size = if given { Some(number("size")?) } else { None },
        b"uid" => pax.uid = if given { Some(number("uid")?) } else { None },
        b"gid" => pax.gid = if given { Some(number("gid")?) } else { None },
        b"mtime" => {
            pax.mtime =
                if given { Some(time(value).ok_or(TarError::Number { at, field: "mtime" })?) } else { None }
        }
        b"GNU.sparse.major" => pax.sparse.major = Some(number("sparse version")?),
        b"GNU.sparse.minor" => pax.sparse.minor = Some(number("sparse version")?),
        b"GNU.sparse.name" => pax.sparse.name = name()?,
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => pax.sparse.real_size = Some(number("sparse size")?),
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            let in_turn = pax.sparse.map.len().is_multiple_of(2) == (key == b"GNU.sparse.offset");
            if !in_turn {
                return Err(TarError::Sparse { at, why: "has offsets and lengths out of turn" });
            }
            pax.sparse.map.push(number("sparse map")?);
        }
        b"GNU.sparse.map" => {
            let numbers = value.split(|&b| b == b',').filter(|n| !n.is_empty()).map(decimal);
            pax.sparse.map =
                numbers.collect::<Option<_>>().ok_or(TarError::Number { at, field: "sparse map" })?;
        }
        _ => {
            if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.") {
                pax.xattrs.retain(|(name, _)| name != xattr);
                pax.xattrs.push((xattr.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Digits only; `None` also when there are too many.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// "1350244992.023960108", "-1.5": whole seconds rounded down, and nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |&b| b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
        nanos = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    }
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_records() {
        let pax = parse(b"14 path=a/b=c\n15 mtime=-1.25\n31 SCHILY.xattr.user.k=a\nb\0c=d\n", 0).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b=c"[..]));
        assert_eq!(pax.mtime, Some((-2, 750_000_000)));
        assert_eq!(pax.xattrs, [(b"user.k".to_vec(), b"a\nb\0c=d".to_vec())]);
    }

    #[test]
    fn refuses_what_is_none() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"99 a=b\n",
            b"3 a\n",
            b"0 a=b\n",
            b"4 a=b\n",
            b"10 path=\0a\n",
            b"11 size=-1\n",
        ] {
            assert!(parse(bad, 7).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn an_empty_value_takes_back() {
        let pax = parse(b"9 size=5\n8 size=\n", 0).unwrap();
        assert_eq!(pax.size, None);
    }
}
