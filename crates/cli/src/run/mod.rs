//! `brigade run FILE -- COMMAND ARGS…`: one command for each row.
//!
//! A row and its template come in; one process runs at a time for it; its end and its output go
//! out. `work` gives it to the frame that reads rows, retries, limits and writes answers.
//!
//! # For users of GNU parallel
//!
//! | GNU parallel | here | |
//! |---|---|---|
//! | `parallel CMD :::: FILE` | `run FILE -- CMD` | FILE is CSV with a header; `-` is stdin |
//! | `CMD` is run by a shell | no shell; `--shell` for one | a cell is never code, with a shell neither |
//! | `{}` `{.}` `{/}` `{//}` `{/.}` `{#}` | the same | of the column of `--column`, or the only one |
//! | `{name}` with `--header :` | `{name}` | `{name.}`, `{name/}`, … too; a literal brace is `{{` or `}}` |
//! | no placeholder | the same | the cell is the last argument |
//! | `{1}` `{2}`, `{%}`, `{= perl =}`, `{+/}` | none | columns have names; `BRIGADE_ROW` and `BRIGADE_ATTEMPT` are in the environment |
//! | `-j N`, `--jobs` | `-j N`, `--workers` | the number of cores by default; no `50%`, `+2`, `0` |
//! | `-k`, `--keep-order` | `--ordered` | |
//! | `--joblog FILE` | `-o FILE` | the answers: each row with its exit code, signal, times and output |
//! | `--results DIR`, `--files` | `--save-output DIR` | `DIR/00/12/001234.out` and `.err` by row |
//! | `--retries N` | `--retries N-1` | *extra* attempts, 0 by default; there all are counted |
//! | `--timeout D` | `--timeout D` | `30s`, `5m`; no `200%` of the median |
//! | `--termseq TERM,200,…,KILL` | SIGTERM, 2 s, SIGKILL | both to the whole process group |
//! | `--halt soon,fail=N` | `--max-failures N` | or `N%` |
//! | `--halt now,fail=N` | none | a second ctrl-c ends what runs |
//! | `--halt …,success=N` | none | |
//! | `--resume` with `--joblog` | `-o FILE --resume` | refused if the input has changed |
//! | `--resume-failed`, `--retry-failed` | `-o FILE --resume=failed` | |
//! | `--colsep C` | `--delimiter C` | one character; quotes are CSV's |
//! | `--header :` | always | a file without a header needs one |
//! | `--bar`, `--eta`, `--progress` | `--progress` | on a terminal by default; the bar names what binds |
//! | `--dry-run` | `--dry-run` | the command lines, quoted for a shell |
//! | `--delay D` | `--rate 1/D` | retries count too |
//! | `-N n`, `-n`, `-X`, `-m` | none | one row, one process |
//! | `--pipe`, `--block` | `--stdin COLUMN` | a cell is the input, not a piece of the file |
//! | `-u`, `--line-buffer`, `--tag` | none | the outputs of a row are in its answer, apart from those of others |
//! | `--load`, `--memfree`, `--nice` | none | `nice brigade run …`; limits for equal cells: `--key COLUMN` |
//! | `--semaphore`, `--sshlogin`, `--pipepart`, `--shuf` | none | |
//! | exit status: the number of failed jobs | 1 if rows failed | 2 if the run is impossible, 130 if it is interrupted |

mod descriptors;
mod ended;
mod process;
mod shell;
mod template;
mod work;

pub(crate) use self::work::{Commands, check, columns, lanes, plan, run};
use self::{
    descriptors::reserve_descriptors,
    ended::{Captured, Ended, RunError},
    process::{Attempt, Limits, Output, execute, saved_output},
    template::Template,
};
