//! A checkpoint and the commands after it, as one input: each behind a `u16` length.
//!
//! Owns: that container. Whatever its lengths say, the pieces are what is there.

use crate::repair;

/// The pieces, their envelopes made right.
pub(super) fn read(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut steps = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (step, others) = rest.split_at(length);
        steps.push(repaired(step));
        bytes = others;
    }
    steps
}

/// A copy whose envelope is right.
pub(super) fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut right = bytes.to_vec();
    repair::envelope(&mut right);
    right
}

/// The input of these pieces.
pub(super) fn write(steps: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in steps {
        bytes.extend_from_slice(&(step.len() as u16).to_le_bytes());
        bytes.extend_from_slice(step);
    }
    bytes
}
