//! What the values of records hold.
//!
//! Owns: making them. Must never: make a value of another size than was asked for.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batches::noise;

/// Where the values come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Payload {
    /// Bytes without a pattern, the same in every record.
    Noise,
    /// The bytes of a file.
    File(PathBuf),
    /// As many values as `pool`, in turn; of each the part `random` has no pattern, the rest is 0.
    Mixed { random: f64, pool: usize },
}

/// Values are kept in memory by every client.
const POOL_BYTES_MAX: usize = 256 << 20;

impl Payload {
    /// The values, each of `size` bytes; there is at least one.
    pub(crate) fn values(&self, size: usize) -> Result<Vec<Vec<u8>>, String> {
        match self {
            Self::Noise => Ok(vec![noise(size, 0)]),
            Self::File(path) => Ok(vec![read(path, size)?]),
            Self::Mixed { random, pool } => {
                if pool * size > POOL_BYTES_MAX {
                    return Err(format!(
                        "randomizedPayloadPoolSize {pool} of {size} bytes does not fit \
                         {} MiB of memory; take fewer",
                        POOL_BYTES_MAX >> 20,
                    ));
                }
                let random = (size as f64 * random).round() as usize;
                let value = |number| {
                    let mut value = noise(random, number);
                    value.resize(size, 0);
                    value
                };
                Ok((0..*pool as u64).map(value).collect())
            }
        }
    }
}

fn read(path: &Path, size: usize) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        format!(
            "payloadFile {shown} cannot be read from this folder: {error}; without the key the \
             values are bytes without a pattern"
        )
    })?;
    if bytes.len() != size {
        let length = bytes.len();
        return Err(format!("payloadFile {shown} has {length} bytes, messageSize is {size}"));
    }
    Ok(bytes)
}

impl Display for Payload {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noise => out.write_str("bytes without a pattern"),
            Self::File(path) => write!(out, "the bytes of {}", path.display()),
            Self::Mixed { random, pool } => {
                write!(out, "one of {pool} values, {:.0} % without a pattern", random * 100.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn values_have_the_size_and_the_mixture_that_was_asked_for() {
        let values = Payload::Mixed { random: 0.25, pool: 10 }.values(1_000).unwrap();
        assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), 10, "each is another");
        for value in &values {
            assert_eq!(value.len(), 1_000);
            assert!(value[250..].iter().all(|byte| *byte == 0));
            assert!(value[..250].iter().filter(|byte| **byte == 0).count() < 10);
        }
        assert_eq!(Payload::Noise.values(33).unwrap()[0].len(), 33);
        assert!(Payload::Mixed { random: 1.0, pool: 100_000 }.values(4_000_000).is_err());
    }

    #[test]
    fn a_file_must_be_there_and_of_the_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("payload");
        let values = |size| Payload::File(path.clone()).values(size);
        assert!(values(3).unwrap_err().contains("without the key"));
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(values(3).unwrap(), [b"abc"]);
        assert!(values(4).unwrap_err().contains("has 3 bytes, messageSize is 4"));
    }
}
