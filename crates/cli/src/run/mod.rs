//! `brigade run`: one command for each row.
#![cfg_attr(
    not(test),
    expect(dead_code, reason = "the frame of the subcommand calls these")
)]
#![expect(unused_imports, reason = "the frame of the subcommand calls these")]

mod ended;
mod process;
mod shell;
mod template;

pub(crate) use self::{
    ended::{Captured, Ended, RunError, Stop, signal_name},
    process::{Attempt, Limits, Output, execute, saved_output},
    template::{Template, TemplateError},
};
