//! Reserved: the name and the id are taken, the journal is begun.

use super::configured::Configured;
use super::{Base, Failure, Timer, undone};
use crate::pod::error::PodError;
use crate::pod::model::StepName;

#[derive(Debug)]
pub(in crate::pod) struct Reserved {
    base: Base,
}

impl Reserved {
    pub(super) async fn begin(mut base: Base) -> Result<Self, Box<Failure>> {
        let timer = Timer::start(StepName::Reserved);
        base.publish();
        match base.effects.journal_begin(&base.pod) {
            Ok(()) => {
                base.done(timer);
                Ok(Self { base })
            }
            Err(error) => {
                let error = PodError::Journal(error);
                base.failed(timer, &error);
                Err(Self { base }.undo(error))
            }
        }
    }

    pub(super) async fn configure(self) -> Result<Configured, Box<Failure>> {
        Configured::make(self.base).await
    }

    fn undo(self, error: PodError) -> Box<Failure> {
        undo_base(self.base, error)
    }
}

/// The last step of every undo: the journal entry where nothing else needs it, then the name.
pub(super) fn undo_base(base: Base, error: PodError) -> Box<Failure> {
    if !base.unfinished {
        undone(&base.pod, "removing the journal entry", base.effects.journal_remove(&base.pod.id));
    }
    base.into_failure(error)
}
