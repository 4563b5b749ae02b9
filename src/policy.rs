//! Stand-in for the policy module, replaced at integration.

pub mod options;

use self::options::{PolicyEntry, PolicyKind, PolicyOptions};

#[derive(Debug)]
pub struct PolicySet;

#[derive(Debug)]
pub struct CompileError {
    pub path: String,
    pub message: String,
    pub help: String,
}

impl PolicySet {
    /// Only the syntax of patterns is looked at.
    pub fn compile(options: &PolicyOptions) -> Result<PolicySet, Vec<CompileError>> {
        let mut errors = Vec::new();
        for (index, entry) in options.policies.iter().enumerate() {
            check_name(options, index, &mut errors);
            compile_entry(entry, &format!("policies[{index}]"), &mut errors);
        }
        if errors.is_empty() {
            Ok(PolicySet)
        } else {
            Err(errors)
        }
    }
}

fn compile_entry(entry: &PolicyEntry, path: &str, errors: &mut Vec<CompileError>) {
    match &entry.kind {
        PolicyKind::StringAttribute {
            values, regex: true, ..
        } => {
            for (index, value) in values.iter().enumerate() {
                let Err(error) = regex::Regex::new(value) else {
                    continue;
                };
                let text = error.to_string();
                let reason = text
                    .rsplit_once("error: ")
                    .map_or(text.as_str(), |(_, reason)| reason);
                errors.push(CompileError {
                    path: format!("{path}.string_attribute.values[{index}]"),
                    message: format!("is no regular expression: {}", reason.trim()),
                    help: "the syntax is RE2's: https://github.com/google/re2/wiki/Syntax".to_owned(),
                });
            }
        }
        PolicyKind::And(parts) => {
            for (index, part) in parts.iter().enumerate() {
                compile_entry(part, &format!("{path}.and.and_sub_policy[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn check_name(options: &PolicyOptions, index: usize, errors: &mut Vec<CompileError>) {
    let name = &options.policies[index].name;
    let path = format!("policies[{index}].name");
    let same = options.policies[..index]
        .iter()
        .position(|entry| entry.name == *name);
    if name.is_empty() {
        let help = "name the policy: traces it keeps carry the name".to_owned();
        errors.push(CompileError {
            path,
            message: "the name is empty".to_owned(),
            help,
        });
    } else if let Some(first) = same {
        let message = format!("policies[{first}] is named {name:?} too");
        errors.push(CompileError {
            path,
            message,
            help: "give each policy its own name".to_owned(),
        });
    }
}
