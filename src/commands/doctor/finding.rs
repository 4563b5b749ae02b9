//! What a check says: fine, slower or riskier than need be, or that `run` would fail.

use std::fmt::Display;

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Fine,
    /// It runs, but slower, or with less than was promised.
    Warning,
    /// It does not run.
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Fine => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Invariant: `help` says what to do exactly when the level is not fine.
#[derive(Clone, Debug)]
pub struct Finding {
    pub check: String,
    pub level: Level,
    pub found: String,
    pub help: Option<String>,
}

impl Finding {
    pub fn fine(check: impl Into<String>, found: impl Display) -> Finding {
        Finding {
            check: check.into(),
            level: Level::Fine,
            found: found.to_string(),
            help: None,
        }
    }

    pub fn warning(check: impl Into<String>, found: impl Display, help: impl Display) -> Finding {
        Finding {
            check: check.into(),
            level: Level::Warning,
            found: found.to_string(),
            help: Some(help.to_string()),
        }
    }

    pub fn error(check: impl Into<String>, found: impl Display, help: impl Display) -> Finding {
        Finding {
            level: Level::Error,
            ..Finding::warning(check, found, help)
        }
    }
}

/// In the order in which they were made, which is the order to mend them in.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn add(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    pub fn is_fit(&self) -> bool {
        self.count(Level::Error) == 0
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }

    pub fn to_text(&self) -> String {
        let width = self
            .0
            .iter()
            .map(|finding| finding.check.len())
            .max()
            .unwrap_or(0);
        let mut out = String::new();
        for finding in &self.0 {
            out += &format!(
                "{:<9}{:<width$}  {}\n",
                finding.level.name(),
                finding.check,
                finding.found
            );
            if let Some(help) = &finding.help {
                out += &format!("{:9}help: {}\n", "", help.replace('\n', &format!("\n{:15}", "")));
            }
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        let counted =
            |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        out += &match (errors, warnings) {
            (0, 0) => "\nThis host is fit.\n".to_owned(),
            (0, _) => format!("\nThis host is fit, with {}.\n", counted(warnings, "warning")),
            _ => format!(
                "\n`tailkeep run` would not work here: {}, {}.\n",
                counted(errors, "error"),
                counted(warnings, "warning")
            ),
        };
        out
    }

    /// `{"fit":…,"errors":0,"warnings":0,"findings":[{"check","level":"ok|warning|error","found","help"}]}`
    pub fn to_json(&self) -> Value {
        let findings = self.0.iter().map(|finding| {
            json!({ "check": finding.check, "level": finding.level.name(), "found": finding.found,
                    "help": finding.help })
        });
        json!({
            "fit": self.is_fit(), "errors": self.count(Level::Error), "warnings": self.count(Level::Warning),
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_does_not_make_a_host_unfit_and_an_error_does() {
        let mut findings = Findings::default();
        findings.add(Finding::fine("kernel", "6.18"));
        findings.add(Finding::warning("swap", "on", "swapoff -a"));
        assert!(findings.is_fit());
        assert_eq!(
            findings.to_text(),
            "ok       kernel  6.18\nwarning  swap    on\n         help: swapoff -a\n\n\
             This host is fit, with 1 warning.\n"
        );
        findings.add(Finding::error("ports", "taken", "free it"));
        assert!(!findings.is_fit());
        assert_eq!(
            (
                findings.to_json()["fit"].clone(),
                findings.to_json()["errors"].clone()
            ),
            (json!(false), json!(1))
        );
    }
}
