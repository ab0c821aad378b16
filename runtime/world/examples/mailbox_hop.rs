//! How long a message takes to another core and back, one at a time and with 64 outstanding, idle
//! and while the receiving core is busy with tasks of its own.
//! Run: `cargo run --release -p barrage-world --example mailbox_hop`.

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
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use barrage_world::mailbox::{MailboxReceiver, MailboxSender, mailbox};
    use barrage_world::node::{CoreSet, NodeOptions, start};
    use barrage_world::{Instant, spawn, yield_now};

    const ROUNDS: u64 = 20_000;
    type Ends = Option<(MailboxSender<u64>, MailboxReceiver<u64>)>;

    for (name, window, busy) in [("idle", 1, false), ("idle", 64, false), ("busy", 1, true)] {
        let (there, arriving) = mailbox::<u64>(1024);
        let (back, returning) = mailbox::<u64>(1024);
        let near: Arc<Mutex<Ends>> = Arc::new(Mutex::new(Some((there, returning))));
        let far: Arc<Mutex<Ends>> = Arc::new(Mutex::new(Some((back, arriving))));
        let node = start(&CoreSet::parse("2").unwrap(), NodeOptions::default(), move |core| {
            let ends = if core.index == 0 { &near } else { &far };
            let (sender, mut receiver) = ends.lock().unwrap().take().unwrap();
            async move {
                let outbox = sender.outbox();
                if core.index == 1 {
                    drop(sender);
                    let spinner = spawn(async move {
                        if busy {
                            loop {
                                yield_now().await;
                            }
                        }
                    });
                    while let Some(messages) = receiver.recv().await {
                        for message in messages {
                            if outbox.post(message).is_err() {
                                return;
                            }
                        }
                    }
                    drop(spinner);
                    return;
                }
                drop(sender);
                let sent = RefCell::new(VecDeque::new());
                let mut times: Vec<Duration> = Vec::new();
                let send = || {
                    sent.borrow_mut().push_back(Instant::now());
                    outbox.post(0).unwrap();
                };
                (0..window).for_each(|_| send());
                let begin = Instant::now();
                while times.len() < ROUNDS as usize {
                    for _ in receiver.recv().await.unwrap() {
                        let start: Instant = sent.borrow_mut().pop_front().unwrap();
                        times.push(start.elapsed());
                        send();
                    }
                }
                let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
                times.sort();
                let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
                println!("{name} window {window}: p50 {p50:?}, p99 {p99:?}, {rate:.0}/s");
                if busy {
                    std::process::exit(0);
                }
            }
        });
        node.unwrap().join().unwrap();
    }
}
