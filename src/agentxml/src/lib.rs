//! Agent data files: bytes to text to a report.
//!
//! Invariant: what comes in is hostile. Size, depth, number of elements and texts are limited, there is no DTD and
//! there are no entities but the five predefined ones and character references. Nothing here knows rules or storage.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod decode;
mod report;
mod tree;

pub use decode::decode;
pub use report::{AgentReport, ReportItem, ReportModule, parse};

/// What a file may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Nesting of elements.
    pub depth: usize,
    /// Elements in all.
    pub elements: usize,
    /// Attributes of one element.
    pub attributes: usize,
    /// Modules of a report.
    pub modules: usize,
    /// Bytes of one text.
    pub text: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 2 << 20, depth: 16, elements: 200_000, attributes: 64, modules: 5_000, text: 1 << 20 }
    }
}

/// Why a file is no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum XmlError {
    #[error("the file is empty; nothing was sent, or the agent's disk is full")]
    Empty,
    #[error("the file has {found} bytes, {limit} are allowed; send fewer modules in one file")]
    TooLarge { found: usize, limit: usize },
    #[error("the encoding {0:?} is not known; use UTF-8")]
    UnknownEncoding(String),
    #[error("the bytes are not valid {0}; check the encoding named in the first line")]
    BadBytes(&'static str),
    #[error("line {line}: character U+{code:04X} is not allowed in XML; remove it from the value")]
    BadCharacter { line: usize, code: u32 },
    #[error("line {line}: a document type is not allowed; remove <!DOCTYPE ...>")]
    Doctype { line: usize },
    #[error("line {line}: the entity &{name}; is not known; use &amp; &lt; &gt; &quot; &apos; or a number")]
    UnknownEntity { line: usize, name: String },
    #[error("line {line}: more than {limit} {what}; send a smaller file")]
    Limit { line: usize, what: &'static str, limit: usize },
    #[error("line {line}: {reason}; the file is not well-formed XML")]
    NotWellFormed { line: usize, reason: String },
    #[error("the root element has no agent_name; set it in the agent's configuration")]
    NoAgentName,
}

impl XmlError {
    /// Line of the fault, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            XmlError::BadCharacter { line, .. }
            | XmlError::Doctype { line }
            | XmlError::UnknownEntity { line, .. }
            | XmlError::Limit { line, .. }
            | XmlError::NotWellFormed { line, .. } => Some(*line),
            _ => None,
        }
    }
}
