//! A job on its way: data without a way back to the pool.

pub(crate) mod current;
