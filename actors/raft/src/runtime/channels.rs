//! The world's channels under openraft's names. Owns only the newtypes; adds no behaviour.

use std::cell::Ref;
use std::future::Future;

use barrage_world::channel;
use openraft::async_runtime::{
    Mpsc, MpscReceiver, MpscSender, MpscWeakSender, Mutex, Oneshot, OneshotSender, RecvError,
    SendError, TryRecvError, Watch, WatchReceiver, WatchSender, watch,
};

pub(crate) struct WorldMpsc;

pub(crate) struct Sender<T>(channel::mpsc::Sender<T>);

pub(crate) struct WeakSender<T>(channel::mpsc::WeakSender<T>);

pub(crate) struct Receiver<T>(channel::mpsc::Receiver<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Mpsc for WorldMpsc {
    type Sender<T> = Sender<T>;
    type Receiver<T> = Receiver<T>;
    type WeakSender<T> = WeakSender<T>;

    fn channel<T>(buffer: usize) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = channel::mpsc::bounded(buffer);
        (Sender(sender), Receiver(receiver))
    }
}

impl<T> MpscSender<WorldMpsc, T> for Sender<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message).await.map_err(|error| SendError(error.0))
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

impl<T> MpscWeakSender<WorldMpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

impl<T> MpscReceiver<T> for Receiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> {
        self.0.recv()
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            channel::mpsc::TryRecvError::Empty => TryRecvError::Empty,
            channel::mpsc::TryRecvError::Closed => TryRecvError::Disconnected,
        })
    }
}

pub(crate) struct WorldOneshot;

pub(crate) struct OnceSender<T>(channel::oneshot::Sender<T>);

impl Oneshot for WorldOneshot {
    type Sender<T> = OnceSender<T>;
    type Receiver<T> = channel::oneshot::Receiver<T>;
    type ReceiverError = channel::oneshot::Closed;

    fn channel<T>() -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = channel::oneshot::channel();
        (OnceSender(sender), receiver)
    }
}

impl<T> OneshotSender<T> for OnceSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

pub(crate) struct WorldWatch;

pub(crate) struct Announcer<T>(channel::watch::Sender<T>);

pub(crate) struct Watcher<T>(channel::watch::Receiver<T>);

impl<T> Clone for Announcer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for Watcher<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Watch for WorldWatch {
    type Sender<T> = Announcer<T>;
    type Receiver<T> = Watcher<T>;
    type Ref<'a, T: 'a> = Ref<'a, T>;

    fn channel<T>(initial: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = channel::watch::channel(initial);
        (Announcer(sender), Watcher(receiver))
    }
}

impl<T> WatchSender<WorldWatch, T> for Announcer<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        self.0.send(value).map_err(|error| watch::SendError(error.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> Watcher<T> {
        Watcher(self.0.subscribe())
    }
}

impl<T> WatchReceiver<WorldWatch, T> for Watcher<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

pub(crate) struct WorldMutex<T>(channel::Mutex<T>);

impl<T: 'static> Mutex<T> for WorldMutex<T> {
    type Guard<'a> = channel::mutex::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(channel::Mutex::new(value))
    }

    fn lock(&self) -> impl Future<Output = Self::Guard<'_>> {
        self.0.lock()
    }
}
