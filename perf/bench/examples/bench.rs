//! `barrage bench` alone: `cargo run --release -p barrage-bench --example bench -- bench bare`.
//! The other scenarios need `--binary PATH_OF_BARRAGE`.

use std::process::ExitCode;

use barrage_bench::BenchArgs;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    name: Name,
}

#[derive(Subcommand)]
enum Name {
    Bench(Box<BenchArgs>),
}

fn main() -> ExitCode {
    let Name::Bench(args) = Command::parse().name;
    barrage_bench::run(&args)
}
