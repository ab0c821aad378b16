//! How many polls a second the simulator makes: with many tasks ready at once, with a few tasks
//! that mostly wait for timers and channels, and with a disk.
//! Run: `RUSTFLAGS="--cfg sim" CARGO_TARGET_DIR=target/sim cargo run -p barrage-world --example
//! sim_polls`, with `--release` to compare with a release build.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement prints, may stop and takes real time"
)]

#[cfg(not(sim))]
fn main() {
    println!("needs --cfg sim");
}

#[cfg(sim)]
fn main() {
    measure::yielding("1000 ready", 1_000, 400);
    measure::yielding("10 ready", 10, 40_000);
    measure::waiting();
    measure::disk();
}

#[cfg(sim)]
mod measure {
    use std::time::Duration;

    use barrage_world::channel::mpsc;
    use barrage_world::{BLOCK_SIZE, Buffer, File, JoinHandle, sim, sleep, spawn, yield_now};

    pub(super) fn yielding(name: &str, task_count: u64, turn_count: u64) {
        let turns = move |_| async move {
            for _ in 0..turn_count {
                yield_now().await;
            }
        };
        report(name, move |seed| {
            sim::run(seed, join((0..task_count).map(move |task| spawn(turns(task)))));
        });
    }

    pub(super) fn waiting() {
        let pair = |_| {
            let (sender, mut receiver) = mpsc::bounded::<u64>(4);
            let sends = spawn(async move {
                for number in 0..20_000 {
                    sender.send(number).await.unwrap();
                    if number % 8 == 0 {
                        sleep(Duration::from_micros(10)).await;
                    }
                }
            });
            let receives = spawn(async move { while receiver.recv().await.is_some() {} });
            [sends, receives]
        };
        report("100 waiting, 10 busy", |seed| {
            sim::run(seed, async {
                for _ in 0..100 {
                    drop(spawn(sleep(Duration::from_secs(3600))));
                }
                join((0..5).flat_map(pair)).await;
            });
        });
    }

    pub(super) fn disk() {
        report("disk", |seed| {
            sim::run(seed, join((0..8).map(|number| spawn(write_often(number)))));
        });
    }

    async fn write_often(number: u64) {
        let len = 16 * BLOCK_SIZE as u64;
        let file = File::create(format!("/{number}"), len).await.unwrap();
        for round in 0..4_000 {
            let mut buffer = Buffer::new(BLOCK_SIZE);
            buffer.fill(round as u8);
            let position = round % 16 * BLOCK_SIZE as u64;
            file.write_at(&buffer.freeze(), position).await.unwrap();
            if round % 4 == 0 {
                file.sync_data().await.unwrap();
            }
        }
    }

    async fn join(tasks: impl Iterator<Item = JoinHandle<()>>) {
        let tasks: Vec<_> = tasks.collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    fn report(name: &str, run: impl Fn(u64)) {
        let (mut polls, started) = (0, std::time::Instant::now());
        for seed in 0..5 {
            run(seed);
            polls += sim::poll_count();
        }
        let seconds = started.elapsed().as_secs_f64();
        let rate = polls as f64 / seconds / 1e6;
        println!("{name:<24} {polls:>9} polls {seconds:>7.3} s {rate:>7.2} M/s");
    }
}
