//! How fast direct writes are: 1 MiB x 8 in flight into a preallocated file, then small write +
//! fdatasync latency. Run: `cargo run --release -p barrage-world --example direct_write -- DIR`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement prints and may stop"
)]

#[cfg(sim)]
fn main() {}

#[cfg(not(sim))]
fn main() {
    use std::path::PathBuf;
    use std::rc::Rc;

    use barrage_world::{Buffer, File, Instant, fs, run_local, spawn};

    const FILE_BYTES: u64 = 1 << 30;
    const WRITE_BYTES: usize = 1 << 20;
    const IN_FLIGHT: u64 = 8;
    const SYNCS: usize = 500;

    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    run_local(async move {
        let path = dir.join("direct-write.example");
        let file = Rc::new(File::create(&path, FILE_BYTES).await.unwrap());
        for pass in ["fresh", "overwritten"] {
            let start = Instant::now();
            let mut tasks = Vec::new();
            for lane in 0..IN_FLIGHT {
                let file = Rc::clone(&file);
                tasks.push(spawn(async move {
                    let mut pos = lane * WRITE_BYTES as u64;
                    while pos < FILE_BYTES {
                        let mut buffer = Buffer::new(WRITE_BYTES);
                        buffer[..8].copy_from_slice(&pos.to_le_bytes());
                        file.write_at(&buffer.freeze(), pos).await.unwrap();
                        pos += IN_FLIGHT * WRITE_BYTES as u64;
                    }
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            file.sync_data().await.unwrap();
            let seconds = start.elapsed().as_secs_f64();
            println!("{pass}: {:.0} MiB/s", (FILE_BYTES >> 20) as f64 / seconds);
        }
        let mut times = Vec::new();
        for index in 0..SYNCS {
            let start = Instant::now();
            let buffer = Buffer::new(4096).freeze();
            file.write_at(&buffer, index as u64 * 4096).await.unwrap();
            file.sync_data().await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        println!(
            "4 KiB write + sync: p50 {:?}, p99 {:?}",
            times[SYNCS / 2],
            times[SYNCS * 99 / 100]
        );
        fs::remove(&path).await.unwrap();
    });
}
