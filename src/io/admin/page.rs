//! The page for people: one document with its style and script in it, which asks the same port for the rest.
//!
//! Nothing is rendered here, so nothing foreign is ever in the document: names of spans and services come as
//! JSON and are set as text. The policy allows the document's own script and style by a nonce drawn for each
//! reply, requests to where it came from, and nothing else.

use super::Reply;
use crate::io::datadir::random_u64;
use http::{HeaderValue, StatusCode, header};

const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In one script, so in one scope: the later files use the earlier ones.
const SCRIPTS: [&str; 5] = [
    include_str!("page/elements.js"),
    include_str!("page/numbers.js"),
    include_str!("page/charts.js"),
    include_str!("page/traces.js"),
    include_str!("page/page.js"),
];

pub(super) fn page() -> Reply {
    let nonce = format!("{:016x}{:016x}", random_u64(), random_u64());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let document = DOCUMENT
        .replace("{{nonce}}", &nonce)
        .replace("{{style}}", STYLE)
        .replace("{{script}}", &SCRIPTS.concat());
    let policy = HeaderValue::from_str(&policy).expect("visible ASCII");
    Reply {
        status: StatusCode::OK,
        content_type: "text/html; charset=utf-8",
        headers: vec![
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ],
        body: document.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        String::from_utf8(page().body).expect("UTF-8")
    }

    #[test]
    fn the_document_is_whole_and_asks_nobody_else() {
        let text = text();
        assert!(!text.contains("{{"), "a placeholder is left");
        for outside in ["https://", "//cdn", "@import", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
        let foreign = text.match_indices("http://");
        let foreign = foreign.filter(|(at, _)| !text[*at..].starts_with("http://www.w3.org/2000/svg"));
        assert_eq!(
            foreign
                .filter(|(at, _)| !text[*at..].starts_with("http://${"))
                .count(),
            0
        );
    }

    #[test]
    fn nothing_in_it_needs_more_than_the_nonce() {
        let text = text();
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "eval(",
            "document.write",
            "javascript:",
            " style=\"",
        ] {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
        let handler = regex::Regex::new(r#"<[^>]* on[a-z]+="#).expect("a pattern");
        assert!(!handler.is_match(&text));
        let opened = text.matches("<script").count() + text.matches("<style").count();
        assert_eq!(text.matches(" nonce=\"").count(), opened);
    }

    #[test]
    fn each_reply_has_a_nonce_of_its_own() {
        let policy = |reply: Reply| reply.headers[0].1.to_str().expect("ASCII").to_owned();
        assert_ne!(policy(page()), policy(page()));
    }
}
