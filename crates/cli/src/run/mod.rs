//! `brigade run`: one command for each row.

mod ended;
mod process;
mod shell;
mod template;
mod work;

pub(crate) use self::work::run;
use self::{
    ended::{Ended, RunError},
    process::{Attempt, Limits, Output, execute, saved_output},
    template::Template,
};
