//! Offsets of kernel structures, read from the running kernel's BTF.
//!
//! Only what is asked for is decoded, in one pass over the types and without an allocation for each: the
//! BTF of a kernel holds well over a hundred thousand types. Format: Documentation/bpf/btf.rst.

use std::collections::HashMap;

/// Why BTF could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    #[error("the BTF has no valid header (magic 0xeb9f, version 1)")]
    Header,
    #[error("the BTF ends in the middle of type {id}")]
    Truncated { id: usize },
}

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Anonymous members nest this deep at most; a deeper one is taken for a loop.
const MAX_NESTING: usize = 8;

/// A BTF blob and where each of its types begins.
#[derive(Debug)]
pub struct Btf<'a> {
    strings: &'a [u8],
    types: &'a [u8],
    /// `starts[id - 1]` is the offset of type `id` in `types`.
    starts: Vec<u32>,
    /// Named structures to their id.
    structs: HashMap<&'a [u8], usize>,
}

impl<'a> Btf<'a> {
    /// Indexes the types; `wanted` names the structures that will be asked for.
    pub fn parse(data: &'a [u8], wanted: &[&'a str]) -> Result<Self, BtfError> {
        let word = |at: usize| read_u32(data, at).map(|v| v as usize);
        let magic = data.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) || data.get(2) != Some(&1) {
            return Err(BtfError::Header);
        }
        let section = |offset: usize, length: usize| -> Option<&'a [u8]> {
            let start = word(4)?.checked_add(word(offset)?)?;
            data.get(start..start.checked_add(word(length)?)?)
        };
        let types = section(8, 12).ok_or(BtfError::Header)?;
        let strings = section(16, 20).ok_or(BtfError::Header)?;
        let mut btf = Self { strings, types, starts: Vec::new(), structs: HashMap::new() };
        btf.index(wanted)?;
        Ok(btf)
    }

    fn index(&mut self, wanted: &[&'a str]) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let id = self.starts.len() + 1;
            let truncated = BtfError::Truncated { id };
            let (name, info) = self.head(at).ok_or(truncated.clone())?;
            self.starts.push(u32::try_from(at).map_err(|_| truncated.clone())?);
            if kind(info) == KIND_STRUCT
                && let Some(name) = wanted.iter().find(|w| self.is_named(name, w))
            {
                self.structs.entry(name.as_bytes()).or_insert(id);
            }
            at += 12 + extra_len(info).ok_or(truncated.clone())?;
            if at > self.types.len() {
                return Err(truncated);
            }
        }
        Ok(())
    }

    /// Offset in bytes of a member, inside anonymous structures and unions too. `None`: there is no such
    /// structure or member here, or it is a bit field.
    #[must_use]
    pub fn offset_of(&self, structure: &str, member: &str) -> Option<u32> {
        let id = *self.structs.get(structure.as_bytes())?;
        let bits = self.member_bits(id, member, 0)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Size of a structure in bytes.
    #[must_use]
    pub fn size_of(&self, structure: &str) -> Option<u32> {
        let id = *self.structs.get(structure.as_bytes())?;
        read_u32(self.types, self.start(id)? + 8)
    }

    fn member_bits(&self, id: usize, member: &str, depth: usize) -> Option<u32> {
        if depth > MAX_NESTING {
            return None;
        }
        let start = self.start(id)?;
        let (_, info) = self.head(start)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let bit_fields = info >> 31 == 1;
        for i in 0..(info & 0xffff) as usize {
            let at = start + 12 + i * 12;
            let (name, type_id) = (read_u32(self.types, at)?, read_u32(self.types, at + 4)?);
            let raw = read_u32(self.types, at + 8)?;
            let (bits, width) = if bit_fields { (raw & 0x00ff_ffff, raw >> 24) } else { (raw, 0) };
            if name == 0 {
                if let Some(inner) = self.member_bits(type_id as usize, member, depth + 1) {
                    return bits.checked_add(inner);
                }
            } else if self.is_named(name, member) {
                return (width == 0).then_some(bits);
            }
        }
        None
    }

    fn start(&self, id: usize) -> Option<usize> {
        self.starts.get(id.checked_sub(1)?).map(|at| *at as usize)
    }

    fn head(&self, at: usize) -> Option<(u32, u32)> {
        Some((read_u32(self.types, at)?, read_u32(self.types, at + 4)?))
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let Some(rest) = self.strings.get(offset as usize..) else { return false };
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

/// Bytes after the common twelve. `None`: a kind that this format does not have.
fn extra_len(info: u32) -> Option<usize> {
    let vlen = (info & 0xffff) as usize;
    Some(match kind(info) {
        1 | 14 | 17 => 4,             // INT, VAR, DECL_TAG
        2 | 7..=12 | 16 | 18 => 0,    // PTR, FWD…FUNC, FLOAT, TYPE_TAG
        3 => 12,                      // ARRAY
        4 | 5 | 15 | 19 => vlen * 12, // STRUCT, UNION, DATASEC, ENUM64
        6 | 13 => vlen * 8,           // ENUM, FUNC_PROTO
        _ => return None,
    })
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure of two members, the second inside an anonymous union, and one with a bit field.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0first\0inner\0flag\0";
        let (outer, first, inner, flag) = (1u32, 7u32, 13u32, 19u32);
        let mut types = Vec::new();
        let mut push = |words: &[u32]| words.iter().for_each(|w| types.extend(w.to_ne_bytes()));
        push(&[0, 1 << 24, 4, 32]); // 1: int
        push(&[0, (5 << 24) | 1, 4, inner, 1, 0]); // 2: union { int inner; }
        push(&[outer, (4 << 24) | 2, 16, first, 1, 0, 0, 2, 64]); // 3: struct outer
        push(&[flag, (1 << 31) | (4 << 24) | 1, 4, flag, 1, (1 << 24) | 3]); // 4: struct flag { int flag:1; }
        let mut data = Vec::new();
        data.extend(MAGIC.to_ne_bytes());
        data.extend([1, 0]);
        for word in [24, 0, types.len(), types.len(), strings.len()] {
            data.extend(u32::try_from(word).unwrap().to_ne_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_are_found_also_in_anonymous_unions() {
        let data = sample();
        let btf = Btf::parse(&data, &["outer"]).unwrap();
        assert_eq!(btf.offset_of("outer", "first"), Some(0));
        assert_eq!(btf.offset_of("outer", "inner"), Some(8));
        assert_eq!(btf.size_of("outer"), Some(16));
    }

    #[test]
    fn what_is_not_there_is_none() {
        let data = sample();
        let btf = Btf::parse(&data, &["outer", "flag"]).unwrap();
        assert_eq!(btf.offset_of("outer", "fir"), None);
        assert_eq!(btf.offset_of("other", "first"), None);
        assert_eq!(btf.offset_of("flag", "flag"), None, "a bit field has no byte offset");
    }

    #[test]
    fn damaged_data_is_an_error() {
        let data = sample();
        assert_eq!(Btf::parse(&data[1..], &[]).err(), Some(BtfError::Header));
        assert_eq!(Btf::parse(&[], &[]).err(), Some(BtfError::Header));
        let mut cut = data;
        cut[12] -= 4; // type_len
        assert_eq!(Btf::parse(&cut, &[]).err(), Some(BtfError::Truncated { id: 4 }));
    }
}
