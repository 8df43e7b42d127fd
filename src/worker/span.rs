//! The span of an attempt, entered around each poll. Without the feature `tracing`, `JobSpan` is
//! zero-sized and its methods do nothing.

#[cfg(feature = "tracing")]
pub(crate) use with::JobSpan;
#[cfg(not(feature = "tracing"))]
pub(crate) use without::JobSpan;

#[cfg(feature = "tracing")]
mod with {
    use crate::event::JobId;

    #[derive(Debug)]
    pub(crate) struct JobSpan(tracing::Span);

    impl JobSpan {
        /// The span of no job.
        pub(crate) const NONE: Self = Self(tracing::Span::none());

        /// Replaces the span by one for an attempt of the job.
        pub(crate) fn renew(&mut self, job: JobId, attempt: u32, worker: usize) {
            self.0 = tracing::info_span!("job", id = job.as_u64(), attempt, worker);
        }

        /// Closes the span when the attempt ends.
        pub(crate) fn close(&mut self) {
            self.0 = tracing::Span::none();
        }

        pub(crate) fn in_scope<R>(&self, call: impl FnOnce() -> R) -> R {
            self.0.in_scope(call)
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod without {
    use crate::event::JobId;

    #[derive(Debug)]
    pub(crate) struct JobSpan;

    #[expect(
        clippy::unused_self,
        clippy::needless_pass_by_ref_mut,
        reason = "the same calls as with the feature"
    )]
    impl JobSpan {
        pub(crate) const NONE: Self = Self;

        pub(crate) const fn renew(&mut self, _job: JobId, _attempt: u32, _worker: usize) {}

        pub(crate) const fn close(&mut self) {}

        pub(crate) fn in_scope<R>(&self, call: impl FnOnce() -> R) -> R {
            call()
        }
    }
}
