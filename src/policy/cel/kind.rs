//! The types of conditions, as far as they are known before there is anything to look at.

use std::fmt;

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whatever the evidence has there.
    Any,
    Null,
    Bool,
    Int,
    Double,
    Text,
    Time,
    Span,
    List(Box<Kind>),
    Map(Box<Kind>),
}

impl Kind {
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Double)
    }

    /// Whether values of these may be equal.
    pub fn may_equal(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any | Self::Null, _) | (_, Self::Any | Self::Null) => true,
            (Self::List(one), Self::List(two)) | (Self::Map(one), Self::Map(two)) => one.may_equal(two),
            (one, two) => one == two || (one.is_number() && two.is_number()),
        }
    }

    /// What both are.
    pub fn joined(self, other: Self) -> Self {
        if self == other { self } else { Self::Any }
    }

    /// Whether a value of this may be that, too.
    pub fn may_be(&self, other: &Self) -> bool {
        *self == Self::Any || *other == Self::Any || self == other
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Int => "a whole number",
            Self::Double => "a number",
            Self::Text => "a text",
            Self::Time => "a time",
            Self::Span => "a duration",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        })
    }
}
