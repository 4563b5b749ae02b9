//! The configuration as an operator meets it: the real binary, YAML in, messages and exit code out.
//!
//! `tests/config/*.txt` hold the cases, each with what the binary must say beneath it:
//!
//! ```text
//! === fact_as_a_name
//! $ validate --config a.yaml            the command line (this one if left out)
//! env NAME=value                        an environment variable
//! --- a.yaml                            a file; a case runs in a directory with just these
//! ...
//! --- stderr                            all of it; left out: nothing is said
//! ...
//! --- exit 2                            ends the case
//! ```
//!
//! Standard output is compared only where `--- stdout` is given. `UPDATE_CASES=1 cargo test --test config`
//! writes what the binary says into the files; the difference is then for a person to read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "config/case.rs"]
mod case;
#[path = "config/hostile.rs"]
mod hostile;
#[path = "config/round_trip.rs"]
mod round_trip;

use case::{Case, cases_of, text_of};

/// The binary on `arguments`, in `directory`, with nothing in its environment but `variables`.
fn tailkeep(directory: &Path, arguments: &[&str], variables: &[(String, String)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs(variables.iter().cloned())
        .output()
        .expect("the binary that cargo built runs")
}

#[test]
fn every_case_says_what_its_file_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let entries = fs::read_dir(directory).expect("tests/config is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty());
    let update = std::env::var_os("UPDATE_CASES").is_some();
    let mut failures = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a case file is UTF-8");
        let mut cases = cases_of(&text);
        for case in &mut cases {
            let said = run(case);
            if said != *case {
                failures.push(format!(
                    "{}:\n{}\nbut the binary says:\n{}",
                    file.display(),
                    text_of(case),
                    text_of(&said)
                ));
                *case = said;
            }
        }
        if update {
            let texts: Vec<String> = cases.iter().map(text_of).collect();
            fs::write(&file, texts.join("\n")).expect("writable");
        }
    }
    assert!(
        update || failures.is_empty(),
        "{} cases fail\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The case with what the binary said in place of what it should say.
fn run(case: &Case) -> Case {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in &case.files {
        fs::write(directory.path().join(name), text).expect("writable");
    }
    let arguments: Vec<&str> = case.arguments().collect();
    let output = tailkeep(directory.path(), &arguments, &case.variables);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the binary writes UTF-8");
    Case {
        stderr: text(output.stderr),
        stdout: case.stdout.as_ref().map(|_| text(output.stdout)),
        exit: output.status.code().expect("no signal"),
        ..case.clone()
    }
}
