//! The span of a job, for the feature `tracing`: entered around each poll. Without the feature it is nothing.

#[cfg(feature = "tracing")]
pub(crate) use with::JobSpan;
#[cfg(not(feature = "tracing"))]
pub(crate) use without::JobSpan;

#[cfg(feature = "tracing")]
mod with {
    use crate::observe::JobId;

    #[derive(Debug)]
    pub(crate) struct JobSpan(tracing::Span);

    impl JobSpan {
        pub(crate) fn new(job: JobId, attempt: u32, worker: usize) -> Self {
            Self(tracing::info_span!("job", id = job.as_u64(), attempt, worker))
        }

        pub(crate) fn in_scope<R>(&self, call: impl FnOnce() -> R) -> R {
            self.0.in_scope(call)
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod without {
    use crate::observe::JobId;

    #[derive(Debug)]
    pub(crate) struct JobSpan;

    impl JobSpan {
        pub(crate) const fn new(_job: JobId, _attempt: u32, _worker: usize) -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "the same call as with the feature")]
        pub(crate) fn in_scope<R>(&self, call: impl FnOnce() -> R) -> R {
            call()
        }
    }
}
