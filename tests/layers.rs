//! The layers of `src/`: a file imports only from layers below its own or from its own layer, and
//! no files import each other in a circle. Read as text, from the `use` lines; unit tests are left
//! out, since they may look at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the ground up; docs/design.md says what each is for.
const LAYERS: [&[&str]; 9] = [
    &["sync", "rt", "panic", "channel", "spares", "key", "time"],
    &["error", "event", "report", "policy"],
    &["schedule", "queue", "queue::admission", "queue::running"],
    &["queue::injector", "queue::local"],
    &["job"],
    &["shared"],
    &["submit", "stream"],
    &["handler", "worker"],
    &[
        "pool",
        "control",
        "builder",
        "task_pool",
        "csv",
        "testing",
        "broker",
    ],
];

/// The modules that a module imports from.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The layer of a module: that of the longest of its prefixes that has one.
fn layer(module: &str) -> usize {
    let mut prefix = module;
    loop {
        let found = LAYERS.iter().position(|names| names.contains(&prefix));
        match (found, prefix.rsplit_once("::")) {
            (Some(layer), _) => return layer,
            (None, Some((parent, _))) => prefix = parent,
            (None, None) => panic!("{module} has no layer"),
        }
    }
}

/// Each file below `directory`, by the path of its module.
fn read(directory: &Path, module: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = if module.is_empty() {
            name.clone()
        } else {
            format!("{module}::{name}")
        };
        if path.is_dir() {
            read(&path, &inner, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = if name == "mod" {
                module.to_owned()
            } else {
                inner
            };
            files.insert(module, fs::read_to_string(path).unwrap());
        }
    }
}

/// `a::{b, c::{d}}` as `a::b` and `a::c::d`.
fn leaves(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        found.push(format!("{prefix}{path}"));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let inner = rest.trim().trim_end_matches('}');
    let (mut depth, mut start) = (0_usize, 0);
    for (at, character) in inner.char_indices().chain([(inner.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    leaves(inner[start..at].trim(), &prefix, found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn imports_of(module: &str, text: &str, files: &BTreeMap<String, String>) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let tree = code[at + 4..].split(';').next().unwrap();
        if ["crate::", "super::", "self::"]
            .iter()
            .any(|start| tree.starts_with(start))
        {
            leaves(tree, "", &mut paths);
        }
    }
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let resolve = |path: &String| {
        let (start, rest) = path.split_once("::")?;
        let base = match start {
            "crate" => "",
            "self" => module,
            _ => parent,
        };
        let mut path = if base.is_empty() {
            rest.to_owned()
        } else {
            format!("{base}::{rest}")
        };
        while !files.contains_key(&path) {
            path = path.rsplit_once("::")?.0.to_owned();
        }
        // A module and those inside it are one.
        let is_family = |a: &str, b: &str| a == b || a.starts_with(&format!("{b}::"));
        Some(path).filter(|path| !is_family(path, module) && !is_family(module, path))
    };
    paths.iter().filter_map(resolve).collect()
}

fn imports() -> Imports {
    let mut files = BTreeMap::new();
    read(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        "",
        &mut files,
    );
    // The root names all modules; those of tests and models look at everything.
    files.retain(|module, _| {
        module != "lib" && !module.ends_with("tests") && !module.ends_with("loom_tests")
    });
    files
        .iter()
        .map(|(module, text)| (module.clone(), imports_of(module, text, &files)))
        .collect()
}

#[test]
fn no_file_imports_from_a_layer_above_its_own() {
    let imports = imports();
    let count: usize = imports.values().map(BTreeSet::len).sum();
    assert!(count > 150, "only {count} imports were found");
    for (module, from) in &imports {
        for other in from {
            assert!(
                layer(other) <= layer(module),
                "{module} imports {other}, which is above it"
            );
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut imports = imports();
    // A file that imports from no other is in no circle; without these, neither may others be.
    while let Some(module) = imports
        .iter()
        .find(|(_, from)| from.is_empty())
        .map(|(module, _)| module.clone())
    {
        imports.remove(&module);
        imports.values_mut().for_each(|from| {
            from.remove(&module);
        });
    }
    assert_eq!(imports, Imports::new(), "among these");
}
