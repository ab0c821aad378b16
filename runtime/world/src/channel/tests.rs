//! Tests of the channels, on whichever backend is built.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::{Event, Mutex, mpsc, oneshot, watch};
use crate::{run_local, spawn, yield_now};

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls once with a waker that counts.
fn poll_once<F: Future + Unpin>(future: &mut F) -> (Poll<F::Output>, Arc<CountingWaker>) {
    let counter = Arc::new(CountingWaker::default());
    let waker = Waker::from(Arc::clone(&counter));
    let polled = std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker));
    (polled, counter)
}

#[test]
fn oneshot_delivers_once_and_reports_a_dropped_sender() {
    run_local(async {
        let (sender, receiver) = oneshot::channel();
        assert_eq!(sender.send(7), Ok(()));
        assert_eq!(receiver.await, Ok(7));

        let (sender, receiver) = oneshot::channel::<u8>();
        let waiting = spawn(receiver);
        yield_now().await;
        drop(sender);
        assert_eq!(waiting.await, Some(Err(oneshot::Closed)));

        let (sender, receiver) = oneshot::channel();
        drop(receiver);
        assert_eq!(sender.send(7), Err(7));
    });
}

#[test]
fn mpsc_keeps_order_and_holds_senders_back_when_full() {
    run_local(async {
        let (sender, mut receiver) = mpsc::bounded(2);
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        for value in 0..5 {
            let (sender, order) = (sender.clone(), Rc::clone(&order));
            tasks.push(spawn(async move {
                sender.send(value).await.unwrap();
                order.borrow_mut().push(value);
            }));
        }
        drop(sender);
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(order.borrow().len(), 2, "a full queue takes no more");
        let mut received = Vec::new();
        while let Some(value) = receiver.recv().await {
            received.push(value);
        }
        received.sort_unstable();
        assert_eq!(received, [0, 1, 2, 3, 4]);
        for task in tasks {
            assert_eq!(task.await, Some(()));
        }
    });
}

#[test]
fn mpsc_passes_the_wake_up_of_a_dropped_sender_on() {
    let (sender, mut receiver) = mpsc::bounded(1);
    sender.try_send(0).unwrap();
    let mut first = Box::pin(sender.send(1));
    let mut second = Box::pin(sender.send(2));
    let (polled, first_woken) = poll_once(&mut first);
    assert!(polled.is_pending());
    let (polled, second_woken) = poll_once(&mut second);
    assert!(polled.is_pending());
    assert_eq!(receiver.try_recv(), Ok(0));
    assert_eq!(first_woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(second_woken.0.load(Ordering::Relaxed), 0);
    drop(first);
    assert_eq!(second_woken.0.load(Ordering::Relaxed), 1, "room must not go unnoticed");
    assert!(poll_once(&mut second).0.is_ready());
    assert_eq!(receiver.try_recv(), Ok(2));
}

#[test]
fn mpsc_closes_on_either_side() {
    let (sender, mut receiver) = mpsc::unbounded();
    let weak = sender.downgrade();
    sender.try_send(1).unwrap();
    assert!(weak.upgrade().is_some());
    drop(sender);
    assert!(weak.upgrade().is_none());
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Closed));

    let (sender, receiver) = mpsc::bounded(1);
    drop(receiver);
    assert_eq!(sender.try_send(1), Err(mpsc::TrySendError::Closed(1)));
    assert_eq!(run_local(async move { sender.send(2).await }), Err(mpsc::SendError(2)));
}

#[test]
fn watch_shows_the_latest_value_and_wakes_receivers() {
    run_local(async {
        let (sender, mut receiver) = watch::channel(0);
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow(), 2);
        assert!(!sender.send_if_modified(|_| false));
        let mut other = sender.subscribe();
        let waiting = spawn(async move {
            other.changed().await.unwrap();
            let seen = *other.borrow();
            (seen, other.changed().await)
        });
        yield_now().await;
        assert!(sender.send_if_modified(|value| {
            *value = 3;
            true
        }));
        yield_now().await;
        yield_now().await;
        drop(sender);
        assert_eq!(waiting.await, Some((3, Err(watch::Closed))));
        assert_eq!(receiver.changed().await, Ok(()), "an unseen change outlives its sender");
        assert_eq!(receiver.changed().await, Err(watch::Closed));
    });
    let (sender, receiver) = watch::channel(0);
    drop(receiver);
    assert_eq!(sender.send(1), Err(watch::SendError(1)));
    assert_eq!(*sender.borrow(), 0);
}

#[test]
fn mutex_excludes_across_await_points() {
    run_local(async {
        let mutex = Rc::new(Mutex::new(0));
        let mut tasks = Vec::new();
        for _ in 0..10 {
            let mutex = Rc::clone(&mutex);
            tasks.push(spawn(async move {
                let mut guard = mutex.lock().await;
                let before = *guard;
                yield_now().await;
                *guard = before + 1;
            }));
        }
        for task in tasks {
            assert_eq!(task.await, Some(()));
        }
        assert_eq!(*mutex.lock().await, 10);
    });
}

#[test]
fn event_loses_no_notification_between_listen_and_await() {
    let event = Event::new();
    event.notify_one();
    let mut listener = event.listen();
    assert!(poll_once(&mut listener).0.is_pending(), "an event has no memory");
    event.notify_one();
    assert!(poll_once(&mut listener).0.is_ready());

    let first = event.listen();
    let mut second = pin!(event.listen());
    event.notify_one();
    drop(first);
    assert!(poll_once(&mut second).0.is_ready(), "a notification nobody saw is passed on");

    let first = event.listen();
    event.notify_all();
    let mut late = event.listen();
    drop(first);
    assert!(poll_once(&mut late).0.is_pending(), "a notification to all is not passed on");
    assert_eq!(event.listener_count(), 1);
}
