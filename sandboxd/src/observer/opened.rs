//! What fsconfig and fsmount are about.

use std::collections::VecDeque;

use sandboxd_ebpf::{CheckRecord, FS_TYPE_LEN, Syscall, valid};

/// Remembers which file-system type a thread last opened: fsconfig and fsmount get a descriptor, and the
/// name is not in their arguments. Works on records, so that it also follows those that are only counted.
#[derive(Debug, Default)]
pub(super) struct OpenedTypes(VecDeque<(u32, [u8; FS_TYPE_LEN])>);

impl OpenedTypes {
    const MOST: usize = 64;

    /// Notes an fsopen, and fills in the type of what follows it on the same thread.
    pub fn follow(&mut self, record: &mut CheckRecord) {
        let is = |syscall: Syscall| record.syscall == syscall as u32;
        if is(Syscall::Fsopen) {
            if record.valid & valid::FS_TYPE == 0 {
                return;
            }
            let newest = (record.tid, record.fs_type);
            if self.0.back() == Some(&newest) {
                return;
            }
            self.0.retain(|(tid, _)| *tid != record.tid);
            if self.0.len() == Self::MOST {
                self.0.pop_front();
            }
            self.0.push_back(newest);
        } else if (is(Syscall::Fsconfig) || is(Syscall::Fsmount))
            && let Some((_, fs_type)) = self.0.iter().find(|(tid, _)| *tid == record.tid)
        {
            record.fs_type = *fs_type;
            record.valid |= valid::FS_TYPE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{check, record};
    use super::*;

    #[test]
    fn fsconfig_gets_the_type_its_thread_opened() {
        let mut opened = OpenedTypes::default();
        opened.follow(&mut CheckRecord { syscall: Syscall::Fsopen as u32, ..record() });
        let blank = CheckRecord { syscall: Syscall::Fsconfig as u32, valid: !valid::FS_TYPE, ..record() };
        let mut config = blank;
        opened.follow(&mut config);
        assert_eq!(check(&config).call(), "fsconfig(sysfs)");
        let mut other = CheckRecord { tid: 43, ..blank };
        opened.follow(&mut other);
        assert_eq!(check(&other).call(), "fsconfig");
    }
}
