//! Who speaks: the cluster and the node within it.
//!
//! Owns: the id of a cluster, as it stands in every header. Must never: make one up.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use barrage_model::NodeId;

/// A cluster: the 32 hex digits of `node.json`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// A node of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_written_as_it_is_read() {
        let text = "00ff00000000000000000000000000ab";
        assert_eq!(text.parse::<ClusterId>().unwrap().to_string(), text);
        assert!("".parse::<ClusterId>().is_err());
        assert!("0x12".parse::<ClusterId>().is_err());
        assert!("1".repeat(33).parse::<ClusterId>().is_err());
    }
}
