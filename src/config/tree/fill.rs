//! `${…}` in scalars, as the Collector fills them in.
//!
//! | written | becomes |
//! |---|---|
//! | `${env:NAME}`, `${NAME}` | the environment variable; an error if it is not set |
//! | `${env:NAME:-default}` | the default if the variable is not set or empty |
//! | `${file:PATH}` | the file's text without the newlines at its end |
//! | `$$` | `$` |
//!
//! What is filled in is not looked at again, so a secret may hold any text. Its type is looked for
//! afterwards: `threshold_ms: ${env:SLOW_MS}` is a number, and a key that wants a string keeps the text.
//! A `$` before anything else is a `$`: `^/health$` needs no care.

use super::{Node, NodeKind, Scalar, join_path};
use crate::config::Surroundings;
use crate::config::diagnostic::Diagnostic;

/// Fills in every scalar below `node`; those that cannot be are reported and become `Broken`.
pub fn fill(node: &mut Node, surroundings: &dyn Surroundings, errors: &mut Vec<Diagnostic>) {
    fill_below(node, "", surroundings, errors);
}

fn fill_below(node: &mut Node, path: &str, surroundings: &dyn Surroundings, errors: &mut Vec<Diagnostic>) {
    match &mut node.kind {
        NodeKind::Scalar(scalar) => {
            if let Err((message, help)) = fill_scalar(scalar, surroundings) {
                errors.push(Diagnostic::error(node.origin.clone(), path, message).with_help(help));
                node.kind = NodeKind::Broken;
            }
        }
        NodeKind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                fill_below(item, &format!("{path}[{index}]"), surroundings, errors);
            }
        }
        NodeKind::Map(entries) => {
            for entry in entries {
                fill_below(
                    &mut entry.value,
                    &join_path(path, &entry.key),
                    surroundings,
                    errors,
                );
            }
        }
        NodeKind::Broken => {}
    }
}

/// A message and its help.
type Refusal = (String, String);

fn fill_scalar(scalar: &mut Scalar, surroundings: &dyn Surroundings) -> Result<(), Refusal> {
    if !scalar.text.contains('$') {
        return Ok(());
    }
    let mut filled = String::new();
    let mut rest = scalar.text.as_str();
    let mut untyped = scalar.untyped;
    while let Some(dollar) = rest.find('$') {
        filled.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (reference, after) = after.split_once('}').ok_or_else(|| {
                (
                    "`${` without `}`".to_owned(),
                    "write `$$` for a dollar sign itself".to_owned(),
                )
            })?;
            filled.push_str(&look_up(reference, surroundings)?);
            untyped = true;
            rest = after;
        } else {
            filled.push('$');
        }
    }
    filled.push_str(rest);
    scalar.text = filled;
    scalar.untyped = untyped;
    Ok(())
}

fn look_up(reference: &str, surroundings: &dyn Surroundings) -> Result<String, Refusal> {
    let (scheme, name) = match reference.split_once(':') {
        // `${NAME:-default}` has no scheme either.
        Some((name, rest)) if rest.starts_with('-') && is_variable(name) => ("env", reference),
        Some((scheme, name)) => (scheme, name),
        None => ("env", reference),
    };
    match scheme {
        "env" => look_up_variable(name, surroundings),
        "file" => match surroundings.file(name) {
            Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
            Err(why) => {
                let help = "the path is relative to the directory tailkeep is started in";
                Err((
                    format!("cannot read the file of `${{{reference}}}`: {why}"),
                    help.to_owned(),
                ))
            }
        },
        _ => {
            let help =
                "known are `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}`; `$$` is a dollar sign";
            Err((format!("unknown scheme in `${{{reference}}}`"), help.to_owned()))
        }
    }
}

fn look_up_variable(reference: &str, surroundings: &dyn Surroundings) -> Result<String, Refusal> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable(name) {
        let help =
            "a name is letters, digits and `_`, and does not begin with a digit; `$$` is a dollar sign";
        return Err((
            format!("`{name}` cannot be an environment variable"),
            help.to_owned(),
        ));
    }
    match (surroundings.env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("environment variable {name} is not set"),
            format!("set it, or give a default: ${{env:{name}:-…}}"),
        )),
    }
}

fn is_variable(name: &str) -> bool {
    let mut characters = name.chars();
    characters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_')
}
