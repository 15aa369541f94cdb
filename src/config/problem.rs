//! What is wrong with a configuration, each with its place, all of it at once.

use std::fmt;
use std::path::{Path, PathBuf};

/// One problem or warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line and column, from 1; `None` when it concerns the file as a whole.
    pub place: Option<(usize, usize)>,
    /// Dotted path of the key, empty for the file as a whole.
    pub key: String,
    pub problem: String,
    /// What to do.
    pub hint: String,
}

/// All that was found in one file. Holds no secret.
#[derive(Clone, Debug)]
pub struct Report {
    pub file: PathBuf,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// What a person has yet to fill in: a warning for who only looks at the file.
    pub unfilled: Vec<Problem>,
    /// What ends within 30 days: a warning of `check`; the running broker says it by itself, once a day.
    pub ending: Vec<Problem>,
}

impl Report {
    /// Nothing yet.
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            problems: Vec::new(),
            warnings: Vec::new(),
            unfilled: Vec::new(),
            ending: Vec::new(),
        }
    }

    /// One line: `file:line:column: key: problem; hint`.
    pub fn line(&self, problem: &Problem) -> String {
        struct Line<'a>(&'a Report, &'a Problem);
        impl fmt::Display for Line<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self(report, problem) = self;
                write!(f, "{}", report.file.display())?;
                if let Some((line, column)) = problem.place {
                    write!(f, ":{line}:{column}")?;
                }
                if !problem.key.is_empty() {
                    write!(f, ": {}", problem.key)?;
                }
                write!(f, ": {}", problem.problem)?;
                if problem.hint.is_empty() { Ok(()) } else { write!(f, "; {}", problem.hint) }
            }
        }
        Line(self, problem).to_string()
    }

    /// For who runs on the file: what is to be filled in is wrong.
    pub fn strict(mut self) -> Self {
        self.problems.append(&mut self.unfilled);
        self.sort();
        self
    }

    /// In the order of the file.
    pub fn sort(&mut self) {
        for entries in [&mut self.problems, &mut self.warnings, &mut self.unfilled, &mut self.ending] {
            entries.sort();
            entries.dedup();
        }
    }
}

/// The one of `known` that was probably meant by `word`.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let close = |known: &'k str| {
        let distance = strsim::damerau_levenshtein(&word.to_lowercase(), known);
        (distance <= 1 + word.len() / 4).then_some((distance, known))
    };
    known.into_iter().filter_map(close).min().map(|(_, known)| known)
}
