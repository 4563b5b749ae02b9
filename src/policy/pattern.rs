//! The Collector's regular expressions (Go's, which are RE2's) written as ours.
//!
//! Both are unanchored, linear in time and mostly one language. Where they part, a pattern that means one
//! thing there would silently mean another here or be refused, so it is rewritten before it is compiled:
//!
//! | pattern | there | here, unless rewritten |
//! |---|---|---|
//! | `/users/{id}` | `{` is itself where no number follows | an error |
//! | `\d \w \s \b` and their opposites | ASCII | Unicode |
//! | `[[a]`, `[a&&b]`, `[a~~b]`, `[+--]` | plain characters and ranges | nested classes and set operators |
//! | `\<` `\>` | `<` `>` | word boundaries |
//! | `\Q.*\E` | the text `.*` | an error |

use std::iter::Peekable;
use std::str::Chars;

use regex::bytes::{RegexSet, RegexSetBuilder};

/// Bytes that a list of patterns may take when compiled.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// What is wrong with one pattern, if anything.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    compile(&[pattern]).map(drop)
}

/// Matches where one of `patterns` matches anywhere.
pub(super) fn compile(patterns: &[impl AsRef<str>]) -> Result<RegexSet, String> {
    let rewritten: Result<Vec<_>, _> = patterns.iter().map(|pattern| rewrite(pattern.as_ref())).collect();
    let mut builder = RegexSetBuilder::new(rewritten?);
    builder
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("takes more than {limit} bytes when compiled"),
            // Several lines that end in what people need.
            error => {
                let text = error.to_string();
                let reason = text
                    .rsplit_once("error: ")
                    .map_or(text.as_str(), |(_, reason)| reason);
                format!("is no regular expression: {}", reason.trim())
            }
        })
}

/// What is wrong with a pattern stays wrong, for the compiler to find, but for names that it would take
/// for characters.
fn rewrite(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '\\' => rewrite_escape(&mut rest, &mut out, false),
            '[' => rewrite_class(&mut rest, &mut out)?,
            '{' if !is_repetition(rest.clone()) => out.push_str(r"\{"),
            char => out.push(char),
        }
    }
    Ok(out)
}

/// Whether `rest` goes on as `n}`, `n,}` or `n,m}`.
fn is_repetition(mut rest: Peekable<Chars<'_>>) -> bool {
    let digits =
        |rest: &mut Peekable<Chars<'_>>| std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).count();
    if digits(&mut rest) == 0 {
        return false;
    }
    if rest.next_if_eq(&',').is_some() {
        digits(&mut rest);
    }
    rest.next() == Some('}')
}

/// What follows a backslash.
fn rewrite_escape(rest: &mut Peekable<Chars<'_>>, out: &mut String, in_class: bool) {
    let Some(char) = rest.next() else {
        return out.push('\\');
    };
    match char {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        's' => out.push_str(r"[\t\n\f\r ]"),
        'S' => out.push_str(r"[^\t\n\f\r ]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'b' if !in_class => out.push_str(r"(?-u:\b)"),
        'B' if !in_class => out.push_str(r"(?-u:\B)"),
        'Q' if !in_class => {
            let text: String = rest.clone().collect();
            let (literal, skipped) = match text.split_once(r"\E") {
                Some((literal, _)) => (literal, literal.chars().count() + 2),
                None => (text.as_str(), text.chars().count()),
            };
            out.push_str(&regex::escape(literal));
            rest.by_ref().take(skipped).for_each(drop);
        }
        '<' | '>' => out.push(char),
        // The braces of these belong to the escape.
        'p' | 'P' | 'x' if rest.peek() == Some(&'{') => {
            out.extend(['\\', char]);
            for char in rest.by_ref() {
                out.push(char);
                if char == '}' {
                    break;
                }
            }
        }
        char => out.extend(['\\', char]),
    }
}

/// What follows the bracket that opens a class: items, of which each is a named class, an escaped class, or
/// a character with perhaps `-` and another.
fn rewrite_class(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut is_first = true;
    while let Some(char) = rest.next() {
        if char == ']' && !is_first {
            out.push(']');
            return Ok(());
        }
        is_first = false;
        if char == '[' && rest.peek() == Some(&':') {
            rewrite_named_class(rest, out)?;
            continue;
        }
        rewrite_class_char(char, rest, out);
        let mut ahead = rest.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|end| *end != ']') {
            rest.next();
            out.push('-');
            if let Some(end) = rest.next() {
                rewrite_class_char(end, rest, out);
            }
        }
    }
    Ok(())
}

fn rewrite_class_char(char: char, rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    match char {
        '\\' => rewrite_escape(rest, out, true),
        '[' | ']' | '&' | '~' | '-' | '^' => out.extend(['\\', char]),
        char => out.push(char),
    }
}

/// `[:alpha:]`, if it is closed; else the bracket is a character.
fn rewrite_named_class(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    const NAMES: [&str; 14] = [
        "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
        "upper", "word", "xdigit",
    ];
    let text: String = rest.clone().skip(1).collect();
    let Some((name, _)) = text.split_once(":]") else {
        out.push_str(r"\[");
        return Ok(());
    };
    if !NAMES.contains(&name.trim_start_matches('^')) {
        return Err(format!("is no regular expression: no class is named [:{name}:]"));
    }
    out.push('[');
    out.extend(rest.by_ref().take(1 + name.len() + 2));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_the_collector() {
        for (pattern, matching, not_matching) in [
            ("/users/{id}", "GET /users/{id}", "/users/7"),
            ("^a{2}$", "aa", "a{2}"),
            ("^a{,2}$", "a{,2}", "aa"),
            ("^a{2,}$", "aaa", "a"),
            ("^a{1,2}b$", "aab", "aaab"),
            ("{", "a{b", "ab"),
            (r"^\d+$", "42", "٤٢"),
            (r"^\w+$", "a_1", "é"),
            (r"^[\w.]+$", "a.b", "é"),
            (r"^[^\d]+$", "٤", "4"),
            (r"^[\D]$", "x", "5"),
            (r"a\sb", "a\tb", "a\u{a0}b"),
            (r"a\b", "aé", "ab"),
            ("^[[a]+$", "[a", "b"),
            ("^[a&&b]+$", "a&b", "c"),
            ("^[a~~b]+$", "a~b", "c"),
            ("^[+--]+$", "+,-", "."),
            ("^[]a]+$", "]a", "b"),
            ("^[^]a]+$", "b", "]"),
            ("^[a^]+$", "a^", "b"),
            ("^[-a]+$", "a-", "b"),
            (r"^[a\]]+$", "]a", "b"),
            ("^[a-c]+$", "abc", "-"),
            ("^[a-]+$", "a-", "b"),
            (r"^[\d-z]+$", "5-z", "a"),
            ("^[[:alpha:]_]+$", "a_", "1"),
            (r"<\<b\>", "<<b>", "<b"),
            (r"^\Q.*[\E+$", ".*[[", "ab["),
            (r"^\Qa.b", "a.bc", "axb"),
            (r"^\x{41}\p{Greek}$", "Aα", "Aa"),
            ("(?i)^error$", "ERROR", "errors"),
            ("^a|b$", "xb", "xa"),
            ("a.c", "abc", "a\nc"),
        ] {
            let set = compile(&[pattern]).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert!(
                set.is_match(matching.as_bytes()),
                "{pattern} matches {matching:?}"
            );
            assert!(
                !set.is_match(not_matching.as_bytes()),
                "{pattern} does not match {not_matching:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        assert_eq!(
            check("(a"),
            Err("is no regular expression: unclosed group".into())
        );
        assert_eq!(
            check(r"a{1000}{1000}"),
            Err("takes more than 1048576 bytes when compiled".into())
        );
        for pattern in [
            "[a",
            r"\",
            "a**(",
            r"(?=a)",
            r"\1",
            "[[:what:]]",
            "[[:",
            r"\p{",
            "[b-a]",
        ] {
            let message = check(pattern).expect_err(pattern);
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
