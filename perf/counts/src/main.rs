//! Does one hot piece of the data path a given number of times, to be counted from outside:
//! `barrage-counts PIECE OPERATIONS`; without arguments it lists the pieces.
//!
//! Owns: the table of pieces. Must never: do anything in a run of few operations that a run of many
//! does not do as well, beside those operations: the difference of two runs is what is counted.
//! Invariants: data is fixed; no clock, hash seed or thread decides what is executed.

#![expect(clippy::print_stdout, reason = "the list is for whoever counts")]

mod batches;
mod door;
mod entries;
mod frames;
mod runs;
mod shard;

use anyhow::{Context as _, Result, ensure};

/// Something that is worth counting.
struct Piece {
    name: &'static str,
    /// So many operations tell enough; twice as many are the most that are ever done.
    operations: u32,
    run: fn(Task) -> Result<()>,
}

/// How much is to be done of what is prepared.
#[derive(Clone, Copy)]
struct Task {
    /// What is prepared, whatever is done: it must not make a difference.
    prepared: u32,
    done: u32,
}

const PIECES: [Piece; 10] = [
    Piece { name: "frame-decode", operations: 500, run: frames::decode },
    Piece { name: "batch-check-one", operations: 1_000, run: door::check_one },
    Piece { name: "batch-check-64k", operations: 100, run: door::check_large },
    Piece { name: "entry-propose", operations: 50, run: shard::propose },
    Piece { name: "entry-encode-small", operations: 50, run: entries::encode_small },
    Piece { name: "entry-encode-64k", operations: 100, run: entries::encode_large },
    Piece { name: "index-append", operations: 200, run: runs::append },
    Piece { name: "index-lookup", operations: 200, run: runs::look_up },
    Piece { name: "apply-produce", operations: 50, run: shard::apply },
    Piece { name: "lease-ack", operations: 50, run: shard::lease_and_ack },
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        PIECES.iter().for_each(|piece| println!("{} {}", piece.name, piece.operations));
        return Ok(());
    };
    let piece = PIECES.iter().find(|piece| piece.name == name);
    let piece = piece.with_context(|| format!("there is no piece {name:?}"))?;
    let done = rest.first().context("usage: barrage-counts [PIECE OPERATIONS]")?;
    let done = done.parse().with_context(|| format!("not a number of operations: {done:?}"))?;
    let prepared = 2 * piece.operations;
    ensure!(done <= prepared, "{name} is prepared for {prepared} operations at most");
    (piece.run)(Task { prepared, done })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece that cannot be done would be found only where valgrind is.
    #[test]
    fn every_piece_can_be_done_as_often_as_prepared() -> Result<()> {
        for piece in &PIECES {
            for done in [0, 1, 3] {
                let task = Task { prepared: 3, done };
                (piece.run)(task).with_context(|| format!("{}, {done} times", piece.name))?;
            }
        }
        Ok(())
    }
}
