//! Changes inputs a little, always in the same way: a smoke test of every target without a fuzzer.
//!
//! Owns: the generator and the changes. Must never: draw from anything but its seed.

/// Draws numbers (splitmix64).
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

/// Numbers on which parsers stumble.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Most changes to one input.
const CHANGES_MAX: usize = 6;

impl Mutator {
    /// A generator; equal seeds give equal changes.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    /// A changed copy of one of the inputs, at most `size_max` long.
    pub fn change(&mut self, inputs: &[Vec<u8>], size_max: usize) -> Vec<u8> {
        let mut bytes = self.pick(inputs).to_vec();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change_once(&mut bytes, inputs);
        }
        bytes.truncate(size_max);
        bytes
    }

    fn pick<'a>(&mut self, inputs: &'a [Vec<u8>]) -> &'a [u8] {
        inputs.get(self.below(inputs.len())).map_or(&[], Vec::as_slice)
    }

    fn change_once(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let count = self.below(bytes.len() - at + 1).min(1 << self.below(10));
        match self.below(8) {
            0 => {
                let bit = self.below(8);
                bytes.get_mut(at..).and_then(<[u8]>::first_mut).into_iter().for_each(|byte| {
                    *byte ^= 1 << bit;
                });
            }
            1 => {
                let value = self.next() as u8;
                bytes.insert(at, value);
            }
            2 => drop(bytes.drain(at..at + count)),
            3 => {
                let piece = bytes.get(at..at + count).unwrap_or_default().to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            4 => {
                let other = self.pick(inputs).to_vec();
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(from..).unwrap_or_default());
            }
            5 => bytes.truncate(at),
            _ => self.write_edge(bytes, at),
        }
    }

    /// Overwrites a number of 1, 2, 4 or 8 bytes, in either order.
    fn write_edge(&mut self, bytes: &mut [u8], at: usize) {
        let width = 1 << self.below(4);
        let edge = EDGES.get(self.below(EDGES.len())).copied().unwrap_or(0);
        let edge = if self.below(4) == 0 { edge.wrapping_sub(1) } else { edge };
        let (little, big) = (edge.to_le_bytes(), edge.to_be_bytes());
        let number = match self.below(2) {
            0 => little.get(..width),
            _ => big.get(big.len() - width..),
        };
        let room = bytes.iter_mut().skip(at);
        room.zip(number.unwrap_or_default()).for_each(|(byte, new)| *byte = *new);
    }
}
