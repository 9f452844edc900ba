//! What a condition is compiled to.

use super::facts::Fact;
use super::parse::{Literal, Operator};
use super::pattern::Pattern;

/// A condition that can be evaluated.
#[derive(Debug)]
pub(super) enum Code {
    Literal(Literal),
    List(Vec<Code>),
    Fact(Fact, String),
    /// The variable of an enclosing loop, by its depth.
    Local(usize, String),
    Select(Box<Code>, String),
    Has(Box<Code>, String),
    HasFact(Fact),
    Index(Box<Code>, Box<Code>),
    Call(Function, Box<Code>, Option<Box<Code>>),
    Matches(Box<Code>, Pattern),
    Not(Box<Code>),
    Negate(Box<Code>),
    Binary(Operator, Box<Code>, Box<Code>),
    All(Vec<Code>),
    Any(Vec<Code>),
    If(Box<[Code; 3]>),
    Loop(Box<Loop>),
}

#[derive(Debug)]
pub(super) struct Loop {
    pub form: Form,
    pub range: Code,
    pub variable: String,
    /// Of `map` with three arguments: which elements.
    pub which: Option<Code>,
    pub body: Code,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    StartsWith,
    EndsWith,
    Contains,
    Int,
    Double,
    Text,
    Time,
    Span,
}

impl Function {
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
            Self::Contains => "contains",
            Self::Int => "int",
            Self::Double => "double",
            Self::Text => "string",
            Self::Time => "timestamp",
            Self::Span => "duration",
        }
    }
}
