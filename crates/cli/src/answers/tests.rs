//! Whole runs: opened, written, killed, resumed.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{Answers, AnswersError, Done, Resume, Settings};

/// A row of the input and its verdict.
type Row = (&'static str, &'static str, &'static str);

const ROWS: [Row; 4] = [
    ("a", "plain", "true"),
    ("b\r\n\"b\"", "", "false"),
    ("c,c", "\n", "true"),
    ("", "\"\"\r", "true"),
];

const HEADER: &str = "name,note,row,ok,error\n";

const TEXTS: [&str; 4] = [
    "a,plain,1,true,\"say \"\"1\"\"\"\n",
    "\"b\r\n\"\"b\"\"\",,2,false,\"say \"\"2\"\"\"\n",
    "\"c,c\",\"\n\",3,true,\"say \"\"3\"\"\"\n",
    ",\"\"\"\"\"\r\",4,true,\"say \"\"4\"\"\"\n",
];

struct Place {
    directory: TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("answers.csv");
    Place { directory, path }
}

fn place_with(text: impl AsRef<[u8]>) -> Place {
    let place = place();
    fs::write(&place.path, text).expect("written");
    place
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn settings(path: &Path, resume: Option<Resume>) -> Settings {
    Settings {
        path: Some(path.to_owned()),
        resume,
        durable: false,
        spreadsheet: false,
        delimiter: b',',
        input_header: names(&["name", "note"]),
        columns: names(&["row", "ok", "error"]),
        prefix: String::new(),
    }
}

fn open(path: &Path, resume: Option<Resume>) -> Result<(Answers, Done), AnswersError> {
    Answers::open(settings(path, resume))
}

fn refused(path: &Path, resume: Option<Resume>) -> String {
    match open(path, resume) {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string().replace(&*path.to_string_lossy(), "FILE"),
    }
}

fn write(answers: &mut Answers, index: usize, ok: &str) {
    let (name, note, _) = ROWS[index];
    let row = (index + 1).to_string();
    let error = format!("say \"{row}\"");
    let cells = [name, note, &row, ok, &error];
    answers.write(cells.iter()).expect("written");
}

fn check(done: &mut Done, index: usize) -> Result<(), AnswersError> {
    let (name, note, _) = ROWS[index];
    let cells = [name.as_bytes(), note.as_bytes()];
    done.check(index as u64 + 1, index as u64 + 11, cells.into_iter())
}

/// Does what a run does: checks the rows that are done, and writes the others.
fn run(path: &Path, resume: Option<Resume>) -> Vec<u64> {
    let (mut answers, mut done) = open(path, resume).expect("opened");
    let mut ran = Vec::new();
    for (index, (_, _, ok)) in ROWS.into_iter().enumerate() {
        let row = index as u64 + 1;
        check(&mut done, index).expect("unchanged");
        if !done.contains(row) {
            ran.push(row);
            write(&mut answers, index, ok);
        }
    }
    done.check_end(ROWS.len() as u64).expect("no more rows");
    answers.finish().expect("finished");
    ran
}

fn whole() -> String {
    HEADER.to_owned() + &TEXTS.concat()
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).expect("text")
}

#[test]
fn a_missing_or_empty_file_starts_anew_with_resume_and_without() {
    for resume in [None, Some(Resume::Missing), Some(Resume::Failed)] {
        for place in [place(), place_with("")] {
            assert_eq!(run(&place.path, resume), [1, 2, 3, 4]);
            assert_eq!(text_of(&place.path), whole());
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_resumes_to_the_same_answers() {
    let whole = whole();
    let mut ends = vec![HEADER.len()];
    for text in TEXTS {
        ends.push(ends[ends.len() - 1] + text.len());
    }
    for cut in 0..=whole.len() {
        let place = place_with(&whole.as_bytes()[..cut]);
        let done = ends
            .iter()
            .filter(|end| **end <= cut)
            .count()
            .saturating_sub(1);
        {
            let (_, found) = open(&place.path, Some(Resume::Missing)).expect("opened");
            assert_eq!(found.len(), done as u64, "cut at {cut}");
            let end = ends.iter().rfind(|end| **end <= cut);
            assert_eq!(found.torn_bytes(), end.map_or(0, |end| cut - end) as u64);
        }
        let missing: Vec<u64> = (done as u64 + 1..=4).collect();
        assert_eq!(
            run(&place.path, Some(Resume::Missing)),
            missing,
            "cut at {cut}"
        );
        assert_eq!(text_of(&place.path), whole, "cut at {cut}");
    }
}

#[test]
fn nothing_in_the_file_changes_before_the_first_write() {
    let torn = HEADER.to_owned() + TEXTS[1] + "\"c";
    for resume in [Resume::Missing, Resume::Failed] {
        let place = place_with(&torn);
        drop(open(&place.path, Some(resume)).expect("opened"));
        assert_eq!(text_of(&place.path), torn);
    }
    let place = place();
    drop(open(&place.path, None).expect("opened"));
    assert_eq!(text_of(&place.path), "");
}

#[test]
fn finish_writes_a_header_without_rows_and_cuts_a_torn_record() {
    let place_new = place();
    open(&place_new.path, None)
        .expect("opened")
        .0
        .finish()
        .expect("finished");
    assert_eq!(text_of(&place_new.path), HEADER);

    let place_torn = place_with(HEADER.to_owned() + "\"c");
    let (answers, _) = open(&place_torn.path, Some(Resume::Missing)).expect("opened");
    answers.finish().expect("finished");
    assert_eq!(text_of(&place_torn.path), HEADER);
}

#[test]
fn answers_that_are_dropped_write_what_is_buffered() {
    let place = place();
    let (mut answers, _) = open(&place.path, None).expect("opened");
    for _ in 0..1000 {
        write(&mut answers, 0, "true");
    }
    drop(answers);
    assert_eq!(
        text_of(&place.path),
        HEADER.to_owned() + &TEXTS[0].repeat(1000)
    );
}

#[test]
fn a_file_with_answers_is_refused_without_resume_and_the_error_names_it() {
    let place = place_with(whole());
    assert_eq!(
        refused(&place.path, None),
        "FILE: the file is not empty; `--resume` goes on from its answers, `--resume=failed` runs \
         its failed rows again, too",
    );
    assert_eq!(text_of(&place.path), whole());
}

#[test]
fn a_second_process_is_refused_until_the_first_ends() {
    let place = place();
    let (answers, _) = open(&place.path, None).expect("opened");
    for resume in [None, Some(Resume::Missing), Some(Resume::Failed)] {
        assert_eq!(
            refused(&place.path, resume),
            "FILE: another process is writing to this file",
        );
    }
    answers.finish().expect("finished");
    open(&place.path, Some(Resume::Missing)).expect("free again");
}

#[test]
fn another_header_is_refused_with_its_first_difference() {
    let cases = [
        (
            "name,remark,row,ok,error\n",
            "column 2 is \"remark\" and would be \"note\"",
        ),
        (
            "name,note,row,ok\n",
            "column 5 is absent and would be \"error\"",
        ),
        (
            "name,note,row,ok,error,x\n",
            "column 6 is \"x\" and would be absent",
        ),
        (
            "name;note;row;ok;error\n",
            "column 1 is \"name;note;row;ok;error\" and would be \"name\"",
        ),
    ];
    for (header, difference) in cases {
        let place = place_with(header);
        assert_eq!(
            refused(&place.path, Some(Resume::Missing)),
            format!("FILE:1: cannot resume: {difference} with this input and these options"),
        );
        assert_eq!(text_of(&place.path), header);
    }
}

#[test]
fn a_file_that_is_not_ours_is_not_cut() {
    for text in [
        "a note",
        "name,note,row,ok,errors",
        "name,note,row,ok,error,",
        "\"name",
    ] {
        let place = place_with(text);
        assert_eq!(
            refused(&place.path, Some(Resume::Missing)),
            "FILE:1: cannot resume: the file does not start with the header of these answers",
        );
        assert_eq!(text_of(&place.path), text);
    }
}

#[test]
fn a_record_that_this_tool_did_not_write_is_refused_with_its_line() {
    let cases = [
        ("a,b,2,true\n", "4 cells where the header has 5"),
        ("a,b,2,true,,\n", "6 cells where the header has 5"),
        ("a,b,0,true,\n", "`row` is \"0\" and not a row number"),
        ("a,b,,true,\n", "`row` is \"\" and not a row number"),
        ("a,b,+2,true,\n", "`row` is \"+2\" and not a row number"),
        (
            "a,b,18446744073709551616,true,\n",
            "`row` is \"18446744073709551616\" and not a row number",
        ),
        ("a,b,1,true,\n", "row 1 has an answer before this one"),
        ("a,b,4,false,\n", "row 4 has an answer before this one"),
        (
            "a\"b,b,2,true,\n",
            "a quote stands inside a cell without quotes",
        ),
    ];
    for (record, reason) in cases {
        for resume in [Resume::Missing, Resume::Failed] {
            // The fourth row has two lines, so the record is on line 4, and its row failed.
            let fourth = "\"\n\",,4,false,\n";
            let text = HEADER.to_owned() + TEXTS[0] + fourth + record;
            let place = place_with(&text);
            assert_eq!(
                refused(&place.path, Some(resume)),
                format!("FILE:5: cannot resume: {reason}"),
            );
            assert_eq!(text_of(&place.path), text);
        }
    }
}

#[test]
fn a_row_number_far_beyond_the_others_is_known_and_found_to_be_beyond_the_input() {
    let place = place_with(HEADER.to_owned() + TEXTS[0] + "a,b,18446744073709551615,true,\n");
    let (_answers, done) = open(&place.path, Some(Resume::Missing)).expect("opened");
    assert!(done.contains(u64::MAX) && done.contains(1) && !done.contains(0) && !done.contains(2));
    assert_eq!(done.len(), 2);
    let error = done.check_end(4).expect_err("beyond").to_string();
    assert_eq!(
        error.replace(&*place.path.to_string_lossy(), "FILE"),
        "FILE:3: cannot resume: this is the answer to row 18446744073709551615, and the input has \
         4 rows",
    );
}

#[test]
fn an_input_as_long_as_its_last_answer_passes_and_a_shorter_one_does_not() {
    let place = place_with(whole());
    let (_answers, done) = open(&place.path, Some(Resume::Missing)).expect("opened");
    assert!(done.check_end(4).is_ok());
    assert!(done.check_end(5).is_ok());
    assert!(done.check_end(3).is_err());
}

#[test]
fn a_changed_cell_is_refused_with_both_lines_and_both_values() {
    let place = place_with(whole());
    let (_answers, mut done) = open(&place.path, Some(Resume::Missing)).expect("opened");
    for index in 0..4 {
        check(&mut done, index).expect("unchanged");
    }
    let mut refused = |row, cells: &[&str]| {
        let error = done.check(row, 70, cells.iter());
        error
            .expect_err("changed")
            .to_string()
            .replace(&*place.path.to_string_lossy(), "FILE")
    };
    assert_eq!(
        refused(3, &["c,c", "\r\n"]),
        "FILE:5: cannot resume: row 3 has changed: `note` is \"\\r\\n\" on line 70 of the input \
         and \"\\n\" on line 5 of the answers",
    );
    // The same bytes, in other cells.
    assert_eq!(
        refused(1, &["aplain", ""]),
        "FILE:2: cannot resume: row 1 has changed: `name` is \"aplain\" on line 70 of the input \
         and \"a\" on line 2 of the answers",
    );
    assert_eq!(
        refused(1, &["a"]),
        "FILE:2: cannot resume: row 1 has changed: `note` is absent on line 70 of the input \
         and \"plain\" on line 2 of the answers",
    );
    assert_eq!(
        refused(1, &["a", "plain", "1"]),
        "FILE:2: cannot resume: row 1 has changed: `3` is \"1\" on line 70 of the input and \
         absent on line 2 of the answers",
    );
    check(&mut done, 2).expect("still unchanged");
}

#[test]
fn a_change_in_the_secret_part_of_a_url_is_refused_without_showing_it() {
    let place = place_with(HEADER.to_owned() + "https://u:one@h/p?key=two,,1,true,\n");
    let (_answers, mut done) = open(&place.path, Some(Resume::Missing)).expect("opened");
    let cells = [&b"https://u:one@h/p?key=three"[..], b""];
    let error = done
        .check(1, 2, cells.into_iter())
        .expect_err("changed")
        .to_string();
    assert!(
        error.ends_with(
            "`name` is \"https://h/p\" on line 2 of the input and \"https://h/p\" on line 2 of \
             the answers; they differ in a part that is not shown"
        ),
        "{error}",
    );
}

#[test]
fn a_file_for_spreadsheets_is_refused_by_resume_and_by_its_cells() {
    let place = place();
    let spreadsheet = |resume| Settings {
        spreadsheet: true,
        ..settings(&place.path, resume)
    };
    let (mut answers, _) = Answers::open(spreadsheet(None)).expect("opened");
    let cells = ["=1", "-5", "1", "true", "@x"];
    answers.write(cells.iter()).expect("written");
    answers.finish().expect("finished");
    assert_eq!(
        text_of(&place.path),
        HEADER.to_owned() + "'=1,-5,1,true,'@x\n"
    );

    let error = Answers::open(spreadsheet(Some(Resume::Missing))).expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains("`--resume` cannot go on with `--spreadsheet`"),
        "{error}"
    );

    let (_answers, mut done) = open(&place.path, Some(Resume::Missing)).expect("opened");
    let error = done
        .check(1, 2, [&b"=1"[..], b"-5"].into_iter())
        .expect_err("changed");
    let error = error.to_string();
    assert!(
        error.ends_with("as `--spreadsheet` writes it; such a file cannot be resumed"),
        "{error}",
    );
}

#[test]
fn resume_keeps_failed_rows_and_resume_failed_takes_them_out() {
    let text = HEADER.to_owned() + TEXTS[1] + TEXTS[0] + "\"c,c\",\"\n\",3,,\n";
    let place = place_with(&text);
    {
        let (_answers, done) = open(&place.path, Some(Resume::Missing)).expect("opened");
        assert_eq!((done.len(), done.failed(), done.taken_out()), (3, 2, 0));
        assert!(done.contains(2) && done.contains(3));
    }
    {
        let (_answers, done) = open(&place.path, Some(Resume::Failed)).expect("opened");
        assert_eq!((done.len(), done.failed(), done.taken_out()), (1, 0, 2));
        assert!(done.contains(1) && !done.contains(2) && !done.contains(3));
    }
    assert_eq!(run(&place.path, Some(Resume::Missing)), [4]);
    assert_eq!(text_of(&place.path), text.clone() + TEXTS[3]);
    assert_eq!(run(&place.path, Some(Resume::Failed)), [2, 3]);
    let expected = [HEADER, TEXTS[0], TEXTS[3], TEXTS[1], TEXTS[2]].concat();
    assert_eq!(text_of(&place.path), expected);
    // Row 2 fails again, and is taken out again.
    assert_eq!(run(&place.path, Some(Resume::Failed)), [2]);
}

#[test]
fn failed_rows_are_taken_out_of_a_file_cut_at_any_byte() {
    let text = HEADER.to_owned() + TEXTS[0] + TEXTS[1] + TEXTS[2];
    let whole_records = HEADER.len() + TEXTS[0].len() + TEXTS[1].len();
    for cut in whole_records..text.len() {
        let place = place_with(&text.as_bytes()[..cut]);
        assert_eq!(run(&place.path, Some(Resume::Failed)), [2, 3, 4]);
        assert_eq!(text_of(&place.path), whole(), "cut at {cut}");
    }
}

#[test]
fn rows_are_taken_out_even_if_the_run_writes_none() {
    let place = place_with(whole());
    let (answers, _) = open(&place.path, Some(Resume::Failed)).expect("opened");
    answers.finish().expect("finished");
    let expected = [HEADER, TEXTS[0], TEXTS[2], TEXTS[3]].concat();
    assert_eq!(text_of(&place.path), expected);
    let entries = fs::read_dir(place.directory.path())
        .expect("listed")
        .count();
    assert_eq!(entries, 1, "no temporary file stays");
}

#[test]
fn the_file_without_failed_rows_is_locked_like_the_old_one() {
    let place = place_with(whole());
    let old = File::open(&place.path).expect("opened");
    let (mut answers, _) = open(&place.path, Some(Resume::Failed)).expect("opened");
    write(&mut answers, 1, "true");
    answers.flush().expect("written");
    let expected = [
        HEADER,
        TEXTS[0],
        TEXTS[2],
        TEXTS[3],
        &TEXTS[1].replace("false", "true"),
    ];
    assert_eq!(text_of(&place.path), expected.concat());
    let error = refused(&place.path, Some(Resume::Missing));
    assert_eq!(error, "FILE: another process is writing to this file");
    // The new file is another one, so the lock that was seen is its own.
    drop(old);
}

#[test]
fn a_temporary_file_of_a_process_that_died_is_in_nobodys_way() {
    let place = place_with(whole());
    let left = place.directory.path().join(".answers.csv.resume");
    fs::write(&left, "name,note,r").expect("written");
    assert_eq!(run(&place.path, Some(Resume::Failed)), [2]);
    assert!(!left.exists());
}

#[test]
fn the_answers_stay_if_the_failed_rows_cannot_be_taken_out() {
    let place = place_with(whole());
    let left = place.directory.path().join(".answers.csv.resume");
    fs::create_dir(&left).expect("created");
    let (answers, _) = open(&place.path, Some(Resume::Failed)).expect("opened");
    let error = answers
        .finish()
        .expect_err("a directory is in the way")
        .to_string();
    assert!(
        error.contains("cannot take the failed rows out: cannot create a temporary file: "),
        "{error}",
    );
    assert_eq!(text_of(&place.path), whole());
}

#[cfg(unix)]
#[test]
fn owner_permissions_and_symbolic_link_stay_when_failed_rows_are_taken_out() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
    let place = place_with(whole());
    let link = place.directory.path().join("link.csv");
    symlink("answers.csv", &link).expect("linked");
    // Only root may give a file away. For others, the owner stays as it is.
    let _ = chown(&place.path, Some(1234), Some(1235));
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o640)).expect("set");
    let attributes = || {
        let found = fs::metadata(&place.path).expect("there");
        (found.uid(), found.gid(), found.mode())
    };
    let before = attributes();
    assert_eq!(run(&link, Some(Resume::Failed)), [2]);
    assert_eq!(attributes(), before);
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert!(!text_of(&place.path).contains("2,false,x"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_takes_answers_and_cannot_be_resumed() {
    let path = Path::new("/dev/null");
    assert_eq!(run(path, None), [1, 2, 3, 4]);
    assert_eq!(
        refused(path, Some(Resume::Missing)),
        "FILE: `--resume` needs a regular file",
    );
    let (answers, _) = open(Path::new("/dev/full"), None).expect("opened");
    let error = answers.finish().expect_err("full");
    assert_eq!(
        error.to_string(),
        "/dev/full: cannot write the answers: No space left on device (os error 28)",
    );
}

#[test]
fn names_with_a_prefix_and_another_delimiter_are_found_again() {
    let place = place();
    let settings = |resume| Settings {
        delimiter: b';',
        input_header: names(&["row", "ok"]),
        columns: names(&["fetch_ok", "fetch_row"]),
        prefix: "fetch_".to_owned(),
        ..settings(&place.path, resume)
    };
    let (mut answers, _) = Answers::open(settings(None)).expect("opened");
    let cells = ["true;", "a,b", "false", "7"];
    answers.write(cells.iter()).expect("written");
    answers.finish().expect("finished");
    let expected = "row;ok;fetch_ok;fetch_row\n\"true;\";a,b;false;7\n";
    assert_eq!(text_of(&place.path), expected);
    let (_answers, mut done) = Answers::open(settings(Some(Resume::Missing))).expect("opened");
    assert_eq!((done.len(), done.failed(), done.contains(7)), (1, 1, true));
    done.check(7, 8, [&b"true;"[..], b"a,b"].into_iter())
        .expect("unchanged");
}

#[test]
fn a_lock_that_another_process_left_is_free() {
    let place = place_with(HEADER);
    let mut file = File::options()
        .append(true)
        .open(&place.path)
        .expect("opened");
    file.try_lock().expect("locked");
    file.write_all(TEXTS[0].as_bytes()).expect("written");
    let locked = refused(&place.path, Some(Resume::Missing));
    assert_eq!(locked, "FILE: another process is writing to this file");
    drop(file);
    assert_eq!(run(&place.path, Some(Resume::Missing)), [2, 3, 4]);
}
