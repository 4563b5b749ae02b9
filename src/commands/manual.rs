//! `tailkeep manual`: the pages that this executable was built with.

use super::{Failure, ManualArguments, print_result};

/// Name, what it tells, text.
const PAGES: [(&str, &str, &str); 6] = [
    (
        "watching",
        "doctor, status, explain, the page: what runs and why a trace was kept",
        include_str!("../manual/user/watching.md"),
    ),
    (
        "architecture",
        "how tailkeep is built, and the life of a span",
        include_str!("../manual/architecture.md"),
    ),
    (
        "invariants",
        "what always holds, by id",
        include_str!("../manual/invariants.md"),
    ),
    (
        "wal_format",
        "the bytes of the log",
        include_str!("../manual/wal_format.md"),
    ),
    (
        "decisions",
        "what was decided, why, and why not otherwise",
        include_str!("../manual/decisions.md"),
    ),
    (
        "glossary",
        "one word, one meaning",
        include_str!("../manual/glossary.md"),
    ),
];

pub fn manual(arguments: &ManualArguments) -> Result<(), Failure> {
    let Some(topic) = &arguments.topic else {
        let lines = PAGES
            .iter()
            .map(|(name, about, _)| format!("{name:<14}{about}\n"));
        let list: String = lines.collect();
        return print_result(&format!("{list}\n`tailkeep manual TOPIC` prints one.\n"));
    };
    let wanted = topic.to_lowercase().replace('-', "_");
    match PAGES.iter().find(|(name, ..)| *name == wanted) {
        Some((_, _, text)) => print_result(&readable(text)),
        None => {
            let names: Vec<&str> = PAGES.iter().map(|(name, ..)| *name).collect();
            Err(Failure::Usage(format!(
                "error: manual: no page \"{}\"\n  help: there are {}",
                topic.escape_debug(),
                names.join(", ")
            )))
        }
    }
}

/// Links into the code mean nothing on a terminal; the names in them do.
fn readable(text: &str) -> String {
    let text = text.replace("[`crate::", "`").replace("`]", "`");
    match text.ends_with('\n') {
        true => text,
        false => text + "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_into_the_code_become_names() {
        assert_eq!(readable("See [`crate::wal`]."), "See `wal`.\n");
    }
}
