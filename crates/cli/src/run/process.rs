//! One attempt at one row: arguments come in, a process runs, and its end and output go out.
//!
//! A process is the leader of a process group of its own. To end it is to end the group: SIGTERM,
//! and SIGKILL after a grace. A process that leaves its group (`setsid`) is out of reach.
//!
//! The processes are the standard library's, which starts them by `posix_spawn` as long as neither
//! `pre_exec` nor a working directory is asked for. Their exit is awaited by a pidfd. The type of
//! smol is not used, for two reasons: it loses a process whose pidfd cannot be opened (too many
//! files), which would run on while its row is tried again; and it reaps by itself, so a group
//! could be killed whose number belongs to others by then. Here, a leader is reaped only where its
//! group needs no signal any more, with one exception: see `end_group`.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    future::Future,
    io,
    os::unix::{
        ffi::OsStrExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    pin::{Pin, pin},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    process::{self as unix, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use smol::{
    Async, Timer,
    future::{self, FutureExt as _},
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
};

use crate::options::queue::PASSWORD;

use super::ended::{Captured, Ended, RunError, Stop};

/// How long an output is read without a look at the clock and the other output.
const READS_BEFORE_YIELD: u32 = 16;

const READ_BYTES: usize = 16 * 1024;

/// How often a group whose leader has ended is looked at.
const GROUP_POLL: Duration = Duration::from_millis(20);

/// What runs in an attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempt {
    /// The program and its arguments, from [`Template::argv`](super::Template::argv).
    pub(crate) argv: Vec<OsString>,
    /// What the process reads; `None` is `/dev/null`.
    pub(crate) stdin: Option<Vec<u8>>,
    /// The number of the row: `BRIGADE_ROW`, and the names of saved outputs.
    pub(crate) row: u64,
    /// Counted from 1: `BRIGADE_ATTEMPT`.
    pub(crate) attempt: u32,
    /// Of a row that comes from a queue: `BRIGADE_JOB_ID`, the same for each delivery.
    pub(crate) job_id: Option<Arc<str>>,
}

/// What bounds an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long a process may run. Unlimited by default.
    pub(crate) timeout: Option<Duration>,
    /// How many bytes are kept of each output. 64 KiB by default. The rest is read and dropped, so
    /// that the process is not held up.
    pub(crate) max_output: usize,
    /// How long after SIGTERM the group gets SIGKILL. 2 s by default.
    pub(crate) kill_grace: Duration,
    /// How long the outputs are read after the end of the process, if others keep them open.
    /// 500 ms by default.
    pub(crate) pipe_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: None,
            max_output: 64 * 1024,
            kill_grace: Duration::from_secs(2),
            pipe_grace: Duration::from_millis(500),
        }
    }
}

/// Where the outputs of a process go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Into [`Ended::stdout`] and [`Ended::stderr`].
    Capture,
    /// Into the files of [`saved_output`] below the directory, without a bound. A further attempt
    /// replaces them.
    Files(PathBuf),
}

/// The files for the two outputs of a row: `DIR/00/12/001234.out` and `.err`.
pub(crate) fn saved_output(directory: &Path, row: u64) -> [PathBuf; 2] {
    let folder = directory
        .join(format!("{:02}", row / 10_000))
        .join(format!("{:02}", row / 100 % 100));
    ["out", "err"].map(|extension| folder.join(format!("{row:06}.{extension}")))
}

/// Runs a process to its end.
///
/// A process that starts others and ends by itself leaves them running; if they keep an output
/// open, it is read for [`Limits::pipe_grace`] longer. A process that reaches
/// [`Limits::timeout`], or runs when `stop` is ready, is ended together with its group.
///
/// # Errors
///
/// Everything but exit code 0.
///
/// # Cancel safety
///
/// Dropping the future kills the group at once, by SIGKILL, and leaves no zombie.
pub(crate) async fn execute(
    attempt: &Attempt,
    limits: &Limits,
    output: &Output,
    stop: impl Future<Output = Stop>,
) -> Result<Ended, RunError> {
    let started = Instant::now();
    let mut process = Process::spawn(attempt, output)?;
    let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
    let result = {
        let transfer = process.transfer(attempt, limits, &mut stdout, &mut stderr);
        let mut pipes = Pipes::new(transfer.map_err(watch)?);
        let result = run(&mut process, &mut pipes, limits, stop)
            .await
            .map_err(watch)?;
        pipes.finish(limits.pipe_grace).await;
        result
    };
    let (status, cause) = result;
    let ended = Ended {
        exit_code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        stdout,
        stderr,
        elapsed: started.elapsed(),
    };
    match (cause, ended.exit_code) {
        (Some(Cause::Timeout(after)), _) => Err(RunError::Timeout {
            after,
            ended: Box::new(ended),
        }),
        (Some(Cause::Stop(stop)), _) => Err(RunError::Stopped {
            stop,
            ended: Box::new(ended),
        }),
        (None, Some(0)) => Ok(ended),
        (None, Some(_)) => Err(RunError::Exit(Box::new(ended))),
        (None, None) => Err(RunError::Signal(Box::new(ended))),
    }
}

fn watch(source: io::Error) -> RunError {
    RunError::Watch { source }
}

/// Why the group was ended.
#[derive(Clone, Copy)]
enum Cause {
    Timeout(Duration),
    Stop(Stop),
}

/// Waits for the exit, or for a cause to end the group. The status is `None` if the leader does
/// not end in spite of SIGKILL.
async fn run<F: Future<Output = ()>>(
    process: &mut Process,
    pipes: &mut Pipes<F>,
    limits: &Limits,
    stop: impl Future<Output = Stop>,
) -> io::Result<(Option<ExitStatus>, Option<Cause>)> {
    let exit = async { process.exited().await.map(|()| None) };
    let timeout = async {
        match limits.timeout {
            Some(after) => {
                Timer::after(after).await;
                Ok(Some(Cause::Timeout(after)))
            }
            None => future::pending().await,
        }
    };
    let stop = async { Ok(Some(Cause::Stop(stop.await))) };
    match pipes.beside(exit.or(timeout).or(stop)).await? {
        None => Ok((Some(process.reap()?), None)),
        cause => {
            let status = pipes.beside(end_group(process, limits.kill_grace)).await?;
            Ok((status, cause))
        }
    }
}

/// Sends SIGTERM to the group, and SIGKILL to what is left of it after the grace.
///
/// The grace is that of all members. After the leader's end, it is reaped, because the group would
/// never be empty otherwise, and the group is looked at until it is empty. In between, the number
/// of an empty group could in theory be given to another one; the system would have to start as
/// many processes as there are numbers within [`GROUP_POLL`].
async fn end_group(process: &mut Process, grace: Duration) -> io::Result<Option<ExitStatus>> {
    process.signal_group(Signal::TERM);
    let until = Instant::now() + grace;
    if within(until, process.exited()).await.transpose()?.is_none() {
        process.signal_group(Signal::KILL);
        let until = Instant::now() + grace;
        return match within(until, process.exited()).await.transpose()? {
            Some(()) => process.reap().map(Some),
            None => Ok(None),
        };
    }
    let status = process.reap()?;
    let group = process.group;
    let mut rest = GroupGuard(Some(group));
    let emptied = async {
        while unix::test_kill_process_group(group).is_ok() {
            Timer::after(GROUP_POLL).await;
        }
    };
    if within(until, emptied).await.is_some() {
        rest.0 = None;
    }
    Ok(Some(status))
}

/// Kills what is left of a group without its leader.
struct GroupGuard(Option<Pid>);

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The group may have ended by itself.
            let _ = unix::kill_process_group(group, Signal::KILL);
        }
    }
}

async fn within<T>(until: Instant, future: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::at(until).await;
        None
    };
    async { Some(future.await) }.or(late).await
}

/// A process whose end was not seen yet; dropping it kills its group.
struct Process {
    /// `None` once it is reaped.
    child: Option<Child>,
    group: Pid,
    exit: Option<Async<OwnedFd>>,
}

impl Process {
    fn spawn(attempt: &Attempt, output: &Output) -> Result<Self, RunError> {
        let mut command = command(attempt, output)?;
        let child = command.spawn().map_err(|source| RunError::Spawn {
            program: attempt.argv.first().cloned().unwrap_or_default(),
            source,
        })?;
        let group = Pid::from_child(&child);
        // From here on, each way out kills the group.
        let mut process = Self {
            child: Some(child),
            group,
            exit: None,
        };
        process.exit = match unix::pidfd_open(group, PidfdFlags::empty()) {
            Ok(pidfd) => Some(Async::new_nonblocking(pidfd).map_err(watch)?),
            Err(rustix::io::Errno::NOSYS) => None,
            Err(error) => return Err(watch(error.into())),
        };
        Ok(process)
    }

    /// The future that feeds the process and reads its outputs.
    fn transfer<'a>(
        &mut self,
        attempt: &'a Attempt,
        limits: &'a Limits,
        stdout: &'a mut Captured,
        stderr: &'a mut Captured,
    ) -> io::Result<impl Future<Output = ()> + use<'a>> {
        let child = self.child.as_mut();
        let (input, output, errors) = match child {
            Some(child) => (child.stdin.take(), child.stdout.take(), child.stderr.take()),
            None => (None, None, None),
        };
        let input = input.map(Async::new).transpose()?;
        let output = output.map(Async::new).transpose()?;
        let errors = errors.map(Async::new).transpose()?;
        let max = limits.max_output;
        Ok(async move {
            let outputs = future::zip(read(output, stdout, max), read(errors, stderr, max));
            let input = async {
                if let (Some(mut input), Some(text)) = (input, &attempt.stdin) {
                    // A process need not read its input.
                    let _ = input.write_all(text).await;
                }
            };
            future::zip(outputs, input).await;
        })
    }

    /// Waits until the process has ended; it is not reaped.
    async fn exited(&self) -> io::Result<()> {
        if let Some(pidfd) = &self.exit {
            return pidfd.readable().await;
        }
        // Systems without pidfd: one thread for each process.
        let id = WaitId::Pid(self.group);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        smol::unblock(move || unix::waitid(id, options)).await?;
        Ok(())
    }

    /// Takes the status of a process that has ended.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let mut child = self.child.take().ok_or(io::ErrorKind::NotFound)?;
        child.wait()
    }

    fn signal_group(&self, signal: Signal) {
        // The leader is not reaped, so the group exists; a member may be out of reach (setuid).
        let _ = unix::kill_process_group(self.group, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.signal_group(Signal::KILL);
            smol::unblock(move || child.wait()).detach();
        }
    }
}

fn command(attempt: &Attempt, output: &Output) -> Result<Command, RunError> {
    let holds_nul = |word: &OsString| word.as_bytes().contains(&0);
    if let Some(index) = attempt.argv.iter().position(holds_nul) {
        return Err(RunError::Nul { index });
    }
    let mut words = attempt.argv.iter();
    // No variable can hold a NUL.
    let job_id = attempt.job_id.as_deref().filter(|id| !id.contains('\0'));
    let mut command = Command::new(words.next().map_or(OsStr::new(""), OsString::as_os_str));
    command
        .args(words)
        .env("BRIGADE_ROW", attempt.row.to_string())
        .env("BRIGADE_ATTEMPT", attempt.attempt.to_string())
        .envs(job_id.map(|id| ("BRIGADE_JOB_ID", id)))
        .env_remove(PASSWORD)
        .process_group(0)
        .stdin(match attempt.stdin {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        });
    match output {
        Output::Capture => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        Output::Files(directory) => {
            let [stdout, stderr] = saved_output(directory, attempt.row);
            let (stdout, stderr) = (create(&stdout)?, create(&stderr)?);
            command.stdout(stdout).stderr(stderr)
        }
    };
    Ok(command)
}

/// Makes a file, and the folders above it if that is what is missing.
fn create(path: &Path) -> Result<File, RunError> {
    let file = match (File::create(path), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).and_then(|()| File::create(path))
        }
        (file, _) => file,
    };
    file.map_err(|source| RunError::SaveOutput {
        path: path.to_owned(),
        source,
    })
}

/// Reads to the end, and keeps the first `max` bytes.
///
/// An output that is written faster than it is read is always ready. The yields let the time-out
/// and the other output have their turns.
async fn read(input: Option<impl AsyncRead + Unpin>, captured: &mut Captured, max: usize) {
    let Some(mut input) = input else { return };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        for _ in 0..READS_BEFORE_YIELD {
            // A pipe has no error that a process causes; one would be its end.
            let Ok(count @ 1..) = input.read(&mut buffer).await else {
                return;
            };
            let kept = count.min(max.saturating_sub(captured.text.len()));
            captured.text.extend_from_slice(&buffer[..kept]);
            captured.truncated += (count - kept) as u64;
        }
        future::yield_now().await;
    }
}

/// The transfer of input and outputs, which goes on beside whatever else is awaited.
struct Pipes<F> {
    /// `None` once all pipes are closed.
    transfer: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = ()>> Pipes<F> {
    fn new(transfer: F) -> Self {
        Self {
            transfer: Some(Box::pin(transfer)),
        }
    }

    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let transfer = async {
            if let Some(transfer) = &mut self.transfer {
                transfer.await;
            }
            self.transfer = None;
            future::pending().await
        };
        pin!(other).or(pin!(transfer)).await
    }

    /// Goes on until the pipes are closed, for at most `grace`.
    async fn finish(mut self, grace: Duration) {
        if let Some(transfer) = self.transfer.take() {
            within(Instant::now() + grace, transfer).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{self, RecvTimeoutError},
        thread,
    };

    use super::*;

    /// An attempt that takes so long has hung.
    const WATCHDOG: Duration = Duration::from_secs(120);

    /// Runs a future; one that neither ends nor yields ends the tests.
    fn watched<T>(future: impl Future<Output = T>) -> T {
        let (_finished, running) = mpsc::channel::<()>();
        thread::spawn(move || {
            if running.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
                eprintln!("an attempt hangs");
                std::process::abort();
            }
        });
        smol::block_on(future)
    }

    fn attempt(argv: &[&str]) -> Attempt {
        Attempt {
            argv: argv.iter().map(OsString::from).collect(),
            stdin: None,
            row: 12,
            attempt: 3,
            job_id: Some("job".into()),
        }
    }

    fn script(script: &str) -> Attempt {
        attempt(&["sh", "-c", script])
    }

    async fn capture(attempt: &Attempt, limits: &Limits) -> Result<Ended, RunError> {
        execute(attempt, limits, &Output::Capture, future::pending()).await
    }

    fn run(attempt: &Attempt) -> Result<Ended, RunError> {
        watched(capture(attempt, &Limits::default()))
    }

    fn ended(error: &RunError) -> Ended {
        error.ended().unwrap().clone()
    }

    /// The state of a process, from `/proc`; `None` if there is none.
    fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits until a process has ended. One that is not ours may stay a zombie: it depends on the
    /// first process of the system whether it is reaped.
    fn wait_until_dead(pid: u32) {
        watched(async {
            while !matches!(state(pid), None | Some('Z')) {
                Timer::after(GROUP_POLL).await;
            }
        });
    }

    fn wait_until_reaped(pid: u32) {
        watched(async {
            while state(pid).is_some() {
                Timer::after(GROUP_POLL).await;
            }
        });
    }

    fn pids(text: &[u8]) -> Vec<u32> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    /// A leader and a grandchild write their numbers and run on.
    const FAMILY: &str = "sleep 1000 & echo $! $$; wait";

    #[test]
    fn exit_code_0_is_success_with_both_outputs() {
        let ended = run(&script("echo out; echo err >&2")).unwrap();
        assert_eq!((ended.exit_code, ended.signal), (Some(0), None));
        assert_eq!(ended.stdout.text, b"out\n");
        assert_eq!(ended.stderr.text, b"err\n");
        assert_eq!(ended.stdout.truncated, 0);
    }

    #[test]
    fn other_exit_codes_are_errors_with_their_output() {
        let error = run(&script("echo out; exit 3")).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            ("exit", "exit code 3".to_owned())
        );
        let ended = ended(&error);
        assert_eq!(
            (ended.exit_code, ended.stdout.text),
            (Some(3), b"out\n".to_vec())
        );
        assert_eq!(run(&attempt(&["false"])).unwrap_err().kind(), "exit");
    }

    #[test]
    fn signals_of_others_are_told_by_name() {
        let error = run(&script("kill -9 $$")).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            ("signal", "ended by SIGKILL".to_owned())
        );
        let ended = error.ended().unwrap();
        assert_eq!((ended.exit_code, ended.signal), (None, Some(9)));
    }

    #[test]
    fn a_program_that_is_not_there_or_not_executable_is_no_case_for_retries() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "x").unwrap();
        for program in ["/no/such/program", plain.to_str().unwrap(), ""] {
            let error = run(&attempt(&[program])).unwrap_err();
            assert_eq!(error.kind(), "spawn");
            assert!(!error.is_retryable(), "{error}");
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("cannot start {program}: "))
            );
            assert!(error.ended().is_none());
        }
    }

    #[test]
    fn a_nul_byte_is_an_error_of_the_row() {
        let error = run(&attempt(&["echo", "a", "b\0c"])).unwrap_err();
        assert_eq!(error.kind(), "spawn");
        assert!(!error.is_retryable());
        assert!(
            error.to_string().starts_with("argument 2 holds a NUL byte"),
            "{error}"
        );
    }

    #[test]
    fn an_argument_that_is_too_long_is_an_error_of_the_row() {
        let error = run(&attempt(&["true", &"x".repeat(64 << 20)])).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), ("spawn", false));
        assert!(error.to_string().contains("--stdin"), "{error}");
    }

    #[test]
    fn arguments_reach_the_process_as_they_are() {
        let words = [
            "printf", "%s|", "-n", "a b", "it's", "$HOME", "{url}", "", "x\ny",
        ];
        let ended = run(&attempt(&words)).unwrap();
        assert_eq!(ended.stdout.text, b"-n|a b|it's|$HOME|{url}||x\ny|");
    }

    #[test]
    fn row_attempt_and_job_are_in_the_environment() {
        let ended = run(&script(
            "echo $BRIGADE_ROW $BRIGADE_ATTEMPT $BRIGADE_JOB_ID",
        ))
        .unwrap();
        assert_eq!(ended.stdout.text, b"12 3 job\n");
    }

    #[test]
    fn output_is_bounded_and_the_process_not_held_up() {
        let limits = Limits {
            max_output: 1000,
            ..Limits::default()
        };
        let script = script("yes | head -c 10485760; yes e | head -c 70001 >&2");
        let ended = watched(capture(&script, &limits)).unwrap();
        assert_eq!(ended.stdout.text, b"y\n".repeat(500));
        assert_eq!(ended.stdout.truncated, 10_485_760 - 1000);
        assert_eq!(ended.stderr.text, b"e\n".repeat(500));
        assert_eq!(ended.stderr.truncated, 70_001 - 1000);
    }

    #[test]
    fn output_is_kept_in_bytes() {
        let ended = run(&script(r"printf 'a\377\000b'")).unwrap();
        assert_eq!(ended.stdout.text, b"a\xff\0b");
    }

    #[test]
    fn input_is_empty_without_a_cell() {
        let ended = run(&attempt(&["cat"])).unwrap();
        assert_eq!(ended.stdout, Captured::default());
    }

    #[test]
    fn the_cell_is_the_input_however_long() {
        let mut cat = attempt(&["cat"]);
        let cell = b"0123456789\0\n".repeat(100_000);
        cat.stdin = Some(cell.clone());
        let limits = Limits {
            max_output: usize::MAX,
            ..Limits::default()
        };
        let ended = watched(capture(&cat, &limits)).unwrap();
        assert!(
            ended.stdout.text == cell,
            "got {} bytes",
            ended.stdout.text.len()
        );
    }

    #[test]
    fn a_process_need_not_read_its_input() {
        let mut attempt = attempt(&["true"]);
        attempt.stdin = Some(vec![b'x'; 1 << 20]);
        assert_eq!(run(&attempt).unwrap().exit_code, Some(0));
    }

    #[test]
    fn outputs_are_saved_to_files_by_row() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::Files(directory.path().to_owned());
        for text in ["longer than the second", "second"] {
            let script = script(&format!("echo {text}; echo {text} err >&2"));
            let limits = Limits::default();
            let future = execute(&script, &limits, &output, future::pending());
            let ended = watched(future).unwrap();
            assert_eq!(ended.stdout, Captured::default());
        }
        let folder = directory.path().join("00/00");
        assert_eq!(fs::read(folder.join("000012.out")).unwrap(), b"second\n");
        assert_eq!(
            fs::read(folder.join("000012.err")).unwrap(),
            b"second err\n"
        );
    }

    #[test]
    fn files_of_rows_are_at_most_a_hundred_in_a_folder() {
        let out = |row| {
            saved_output(Path::new("d"), row)[0]
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(out(1234), "d/00/12/001234.out");
        assert_eq!(out(999_999), "d/99/99/999999.out");
        assert_eq!(out(1_234_567), "d/123/45/1234567.out");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let output = Output::Files(file.clone());
        let attempt = attempt(&["true"]);
        let limits = Limits::default();
        let future = execute(&attempt, &limits, &output, future::pending());
        let error = watched(future).unwrap_err();
        assert_eq!(error.kind(), "spawn");
        assert!(
            error.to_string().contains(file.to_str().unwrap()),
            "{error}"
        );
    }

    #[test]
    fn a_time_out_ends_the_whole_group() {
        let limits = Limits {
            timeout: Some(Duration::from_millis(300)),
            ..Limits::default()
        };
        let error = watched(capture(&script(FAMILY), &limits)).unwrap_err();
        assert_eq!(error.kind(), "timeout");
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "timed out after 300ms; ended by SIGTERM");
        let ended = ended(&error);
        let pids = pids(&ended.stdout.text);
        assert_eq!(pids.len(), 2, "{ended:?}");
        wait_until_dead(pids[0]);
        wait_until_reaped(pids[1]);
    }

    #[test]
    fn a_leader_that_ignores_sigterm_is_killed_after_the_grace() {
        let limits = Limits {
            timeout: Some(Duration::from_millis(300)),
            kill_grace: Duration::from_millis(100),
            ..Limits::default()
        };
        let script = script("trap '' TERM; sleep 1000 & echo $! $$; wait; wait");
        let error = watched(capture(&script, &limits)).unwrap_err();
        assert_eq!(error.to_string(), "timed out after 300ms; ended by SIGKILL");
        let pids = pids(&ended(&error).stdout.text);
        wait_until_dead(pids[0]);
        wait_until_reaped(pids[1]);
    }

    #[test]
    fn a_member_that_ignores_sigterm_is_killed_when_its_leader_has_ended() {
        let limits = Limits {
            timeout: Some(Duration::from_millis(300)),
            kill_grace: Duration::from_millis(100),
            ..Limits::default()
        };
        let script = script("(trap '' TERM; sleep 1000; sleep 1000) & echo $!; wait");
        let error = watched(capture(&script, &limits)).unwrap_err();
        assert_eq!(error.to_string(), "timed out after 300ms; ended by SIGTERM");
        wait_until_dead(pids(&ended(&error).stdout.text)[0]);
    }

    #[test]
    fn members_of_a_group_have_the_grace_after_their_leader_has_ended() {
        let limits = Limits {
            timeout: Some(Duration::from_millis(300)),
            kill_grace: 2 * WATCHDOG,
            ..Limits::default()
        };
        let script = script(
            "(trap 'sleep 0.3; echo cleaned; exit' TERM; while :; do sleep 0.05; done) & wait",
        );
        let error = watched(capture(&script, &limits)).unwrap_err();
        assert_eq!(ended(&error).stdout.text, b"cleaned\n");
    }

    #[test]
    fn an_output_without_end_does_not_keep_the_time_out_from_its_turn() {
        let limits = Limits {
            timeout: Some(Duration::from_millis(200)),
            ..Limits::default()
        };
        let error = watched(capture(&attempt(&["yes"]), &limits)).unwrap_err();
        assert_eq!(error.kind(), "timeout");
    }

    #[test]
    fn an_input_that_is_always_ready_lets_others_have_their_turn() {
        let mut captured = Captured::default();
        let soon = Instant::now() + Duration::from_millis(10);
        let reading = read(Some(smol::io::repeat(b'y')), &mut captured, 3);
        assert_eq!(watched(within(soon, reading)), None);
        assert_eq!(captured.text, b"yyy");
        assert!(captured.truncated > 0);
    }

    #[test]
    fn a_stop_ends_the_process_and_is_told() {
        for (stop, kind) in [
            (Stop::Interrupted, "interrupted"),
            (Stop::Deadline, "deadline"),
        ] {
            let attempt = attempt(&["sleep", "1000"]);
            let (limits, stop) = (Limits::default(), async move { stop });
            let future = execute(&attempt, &limits, &Output::Capture, stop);
            let error = watched(future).unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (kind, false));
            assert_eq!(error.ended().unwrap().signal, Some(15));
        }
    }

    #[test]
    fn a_process_that_keeps_the_output_open_does_not_hold_up_its_row() {
        let limits = Limits {
            pipe_grace: Duration::from_millis(50),
            ..Limits::default()
        };
        let ended = watched(capture(&script("sleep 1000 & echo $!"), &limits)).unwrap();
        let pid = pids(&ended.stdout.text)[0];
        assert!(!matches!(state(pid), None | Some('Z')), "it is left alone");
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        unix::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn dropping_the_future_kills_the_group_and_leaves_no_zombie() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pids");
        let script = script(&format!(
            "trap '' TERM; sleep 1000 & echo $! $$ > {0}.new; mv {0}.new {0}; wait",
            path.display()
        ));
        let limits = Limits::default();
        let started = async {
            while !path.exists() {
                Timer::after(GROUP_POLL).await;
            }
        };
        watched(async {
            let ended = async {
                capture(&script, &limits)
                    .await
                    .expect_err("ended by itself");
            };
            started.or(ended).await;
        });
        let pids = pids(&fs::read(&path).unwrap());
        wait_until_dead(pids[0]);
        wait_until_reaped(pids[1]);
    }

    #[test]
    fn dropping_the_future_within_the_grace_kills_the_group() {
        let limits = Limits {
            kill_grace: 2 * WATCHDOG,
            ..Limits::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pids");
        // The leader ends by SIGTERM, its child does not.
        let script = script(&format!(
            "(trap 'echo > {0}.term' TERM; until [ -s {0} ]; do sleep 0.01; done; \
             echo > {0}.ready; while :; do sleep 0.05; done) & \
             echo $! $$ > {0}; wait",
            path.display()
        ));
        let (ready, term) = (path.with_extension("ready"), path.with_extension("term"));
        let stop = async {
            while !ready.exists() {
                Timer::after(GROUP_POLL).await;
            }
            Stop::Interrupted
        };
        let terminated = async {
            while !term.exists() {
                Timer::after(GROUP_POLL).await;
            }
        };
        watched(async {
            let ended = async {
                let future = execute(&script, &limits, &Output::Capture, stop);
                panic!("ended before it was dropped: {:?}", future.await);
            };
            terminated.or(ended).await;
        });
        let pids = pids(&fs::read(&path).unwrap());
        wait_until_dead(pids[0]);
        wait_until_reaped(pids[1]);
    }

    /// Prints what 2,000 processes cost, two at once, here and with `xargs -P2`:
    /// `cargo test -p brigade-cli -- --ignored --nocapture speed`. CPU seconds are steadier than
    /// rates on a machine that does other work.
    #[test]
    #[ignore = "a measurement"]
    fn speed_of_spawning_against_xargs() {
        const COUNT: usize = 2_000;
        let xargs = || {
            let script = format!("seq {COUNT} | xargs -P2 -n1 true");
            let status = Command::new("sh").arg("-c").arg(script).status().unwrap();
            assert!(status.success());
        };
        let ours = |output: &Output| {
            let next = std::sync::atomic::AtomicUsize::new(0);
            let attempt = attempt(&["true", "x"]);
            let worker = || async {
                while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < COUNT {
                    let limits = Limits {
                        timeout: Some(WATCHDOG),
                        ..Limits::default()
                    };
                    let future = execute(&attempt, &limits, output, future::pending());
                    future.await.unwrap();
                }
            };
            smol::block_on(future::zip(worker(), worker()));
        };
        for _ in 0..7 {
            let costs = [cost(|| ours(&Output::Capture)), cost(xargs)];
            let [captured, peer] = costs;
            println!(
                "captured, xargs: {costs:.2?}; of the rate of xargs {:.2}, of its CPU seconds {:.2}",
                peer.0 / captured.0,
                captured.1 / peer.1,
            );
        }
    }

    /// Wall and CPU seconds, those of children included.
    fn cost(work: impl FnOnce()) -> (f64, f64) {
        let cpu = || {
            let stat = fs::read_to_string("/proc/self/stat").unwrap();
            let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
            let ticks = fields
                .skip(11)
                .take(4)
                .map(|ticks| ticks.parse::<f64>().unwrap());
            ticks.sum::<f64>() / 100.0
        };
        let (started, before) = (Instant::now(), cpu());
        work();
        (started.elapsed().as_secs_f64(), cpu() - before)
    }
}
