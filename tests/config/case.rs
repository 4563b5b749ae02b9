//! The form of the case files.

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Case {
    pub name: String,
    /// Without the binary; empty: validate `a.yaml`.
    pub command: String,
    pub variables: Vec<(String, String)>,
    pub files: Vec<(String, String)>,
    pub stderr: String,
    /// `None`: not looked at.
    pub stdout: Option<String>,
    pub exit: i32,
}

impl Case {
    /// Words are split at blanks.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        let command = if self.command.is_empty() {
            "validate --config a.yaml"
        } else {
            &self.command
        };
        command.split_whitespace()
    }
}

enum Part {
    Head,
    File,
    Stderr,
    Stdout,
}

/// Every case of a file. What stands before the first is a comment and gets lost on update.
pub fn cases_of(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut part = Part::Head;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            cases.push(Case {
                name: name.to_owned(),
                ..Case::default()
            });
            part = Part::Head;
            continue;
        }
        let case = cases.last_mut().expect("a case file begins with `=== name`");
        if let Some(head) = line.strip_prefix("--- ") {
            part = match head.split_once(' ') {
                Some(("exit", code)) => {
                    case.exit = code.parse().expect("an exit code");
                    Part::Head
                }
                _ if head == "stderr" => Part::Stderr,
                _ if head == "stdout" => {
                    case.stdout = Some(String::new());
                    Part::Stdout
                }
                _ => {
                    case.files.push((head.to_owned(), String::new()));
                    Part::File
                }
            };
            continue;
        }
        let into = match part {
            Part::Head => {
                read_head(case, line);
                continue;
            }
            Part::File => &mut case.files.last_mut().expect("begun above").1,
            Part::Stderr => &mut case.stderr,
            Part::Stdout => case.stdout.as_mut().expect("begun above"),
        };
        into.push_str(line);
        into.push('\n');
    }
    cases
}

fn read_head(case: &mut Case, line: &str) {
    if let Some(command) = line.strip_prefix("$ ") {
        case.command = command.to_owned();
    } else if let Some(variable) = line.strip_prefix("env ") {
        let (name, value) = variable.split_once('=').expect("env NAME=value");
        case.variables.push((name.to_owned(), value.to_owned()));
    } else {
        assert!(line.is_empty(), "{}: what is `{line}`?", case.name);
    }
}

/// The text that [`cases_of`] reads as `case`.
pub fn text_of(case: &Case) -> String {
    let mut text = format!("=== {}\n", case.name);
    if !case.command.is_empty() {
        text.push_str(&format!("$ {}\n", case.command));
    }
    for (name, value) in &case.variables {
        text.push_str(&format!("env {name}={value}\n"));
    }
    for (name, content) in &case.files {
        text.push_str(&format!("--- {name}\n{content}"));
    }
    if !case.stderr.is_empty() {
        text.push_str(&format!("--- stderr\n{}", case.stderr));
    }
    if let Some(stdout) = &case.stdout {
        text.push_str(&format!("--- stdout\n{stdout}"));
    }
    text.push_str(&format!("--- exit {}\n", case.exit));
    text
}
