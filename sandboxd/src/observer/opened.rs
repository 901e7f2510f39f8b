//! What fsconfig and fsmount are about.

use std::collections::VecDeque;

use sandboxd_ebpf::Syscall;

use super::check::Check;

/// Remembers which file-system type a thread last opened: fsconfig and fsmount get a descriptor, and the
/// name is not in their arguments.
#[derive(Debug, Default)]
pub(super) struct OpenedTypes(VecDeque<(i32, Box<str>)>);

impl OpenedTypes {
    const MOST: usize = 64;

    /// Notes an fsopen, and fills in the type of what follows it on the same thread.
    pub fn follow(&mut self, check: &mut Check) {
        match check.syscall {
            Syscall::Fsopen => {
                let Some(fs_type) = check.fs_type.clone() else { return };
                self.0.retain(|(tid, _)| *tid != check.tid);
                if self.0.len() == Self::MOST {
                    self.0.pop_front();
                }
                self.0.push_back((check.tid, fs_type));
            }
            Syscall::Fsconfig | Syscall::Fsmount => {
                check.fs_type = self.0.iter().find(|(tid, _)| *tid == check.tid).map(|(_, t)| t.clone());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use sandboxd_ebpf::{CheckRecord, valid};

    use super::super::check::tests::{check, record};
    use super::*;

    #[test]
    fn fsconfig_gets_the_type_its_thread_opened() {
        let mut opened = OpenedTypes::default();
        let mut open = check(&CheckRecord { syscall: Syscall::Fsopen as u32, ..record() });
        opened.follow(&mut open);
        let blank = CheckRecord { syscall: Syscall::Fsconfig as u32, valid: !valid::FS_TYPE, ..record() };
        let mut config = check(&blank);
        opened.follow(&mut config);
        assert_eq!(config.call(), "fsconfig(sysfs)");
        let mut other = check(&CheckRecord { tid: 43, ..blank });
        opened.follow(&mut other);
        assert_eq!(other.call(), "fsconfig");
    }
}
