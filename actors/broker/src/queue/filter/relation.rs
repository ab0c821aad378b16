//! How one value may stand to another.
//!
//! Owns: the marks of comparison. Must never: know what is compared.

use std::cmp::Ordering;
use std::fmt;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    /// With their marks; none begins with one that stands before it.
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("<>", Self::NotEqual),
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("=", Self::Equal),
        ("<", Self::Less),
        (">", Self::Greater),
    ];

    /// Whether it asks for more than equality.
    pub(super) fn is_order(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    /// The same relation, seen from the other side.
    pub(super) fn flipped(self) -> Self {
        match self {
            Self::Equal | Self::NotEqual => self,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relation_holds_from_both_sides() {
        for (mark, relation) in Relation::ALL {
            assert_eq!(relation.to_string(), mark);
            assert_eq!(relation.flipped().flipped(), relation);
            for (one, other) in [(1, 2), (2, 2), (2, 1)] {
                let seen = relation.holds(one.cmp(&other));
                assert_eq!(relation.flipped().holds(other.cmp(&one)), seen, "{one} {mark} {other}");
                let want = match mark {
                    "=" => one == other,
                    "<>" => one != other,
                    "<" => one < other,
                    "<=" => one <= other,
                    ">" => one > other,
                    _ => one >= other,
                };
                assert_eq!(seen, want, "{one} {mark} {other}");
            }
        }
    }
}
