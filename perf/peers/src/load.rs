//! A closed loop: lanes that each have one request under way, and what is counted meanwhile.
//!
//! Owns: the lanes' tasks, the window, the reading. Must never: count a record that was not
//! acknowledged, or anything of the warm-up.
//! Invariants: no lane outlives the call that started it. A lane counts whole requests, from the
//! end of one to the end of another: where a request takes seconds, because each record of it
//! waits for an fsync, answers come in waves, and a fixed window would hold one or none.
//!
//! ```text
//! phase   warm-up          | counting                       | last
//! lane    request  request   request .. request  request      request
//!                          begin ^         rate = records / time      ^ end
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::usage;

/// One request after another on a connection.
pub(crate) trait Lane: Send + 'static {
    /// Sends one request and waits for its answers; how many records were acknowledged. None means
    /// that there was nothing to do.
    fn turn(&mut self) -> impl Future<Output = Result<u64>> + Send;
}

/// When it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// So many records are there, if it is known: a tenth of them warms up, and then all is over.
    pub(crate) records: Option<u64>,
}

/// What a measurement comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) records_per_s: f64,
    /// Of a request; none where it is not known.
    pub(crate) p50_us: Option<u64>,
    pub(crate) p99_us: Option<u64>,
    /// Cores that were busy; none where it is not known.
    pub(crate) server_busy: Option<f64>,
    pub(crate) client_busy: Option<f64>,
}

/// What all lanes share.
#[derive(Debug)]
struct State {
    phase: Phase,
    /// Acknowledged from the start on, warm-up included.
    records: u64,
    /// As many as there are; no limit where that is not known.
    records_max: Option<u64>,
    /// Of each lane.
    progress: Vec<Progress>,
    /// Microseconds of the requests that count.
    requests: Histogram<u64>,
}

type Shared = Arc<Mutex<State>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    WarmUp,
    Counting,
    /// Every lane ends what it counts.
    Last,
    /// Every lane ends what it does.
    Over,
}

/// The requests of a lane that count.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// From the first one's start to the last one's end.
    span: Option<(Instant, Instant)>,
    records: u64,
}

/// Of a known number of records one in so many is for the warm-up.
const WARM_UP_SHARE: u64 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A lane that found nothing looks again.
const IDLE: Duration = Duration::from_millis(1);
/// What ends after the window.
const LAST_TIMEOUT: Duration = Duration::from_secs(120);
const HISTOGRAM_DIGITS: u8 = 3;
/// What took longer counts as this.
const REQUEST_US_MAX: u64 = 3_600_000_000;

impl State {
    fn new(lanes: usize, records_max: Option<u64>) -> Result<Self> {
        let requests = Histogram::new_with_max(REQUEST_US_MAX, HISTOGRAM_DIGITS)?;
        let progress = vec![Progress::default(); lanes];
        Ok(Self { phase: Phase::WarmUp, records: 0, records_max, progress, requests })
    }

    /// A request of a lane has ended, which began in an earlier phase, or this one. Whether the
    /// lane goes on.
    fn ended(
        &mut self,
        lane: usize,
        began_in: Phase,
        (begin, end): (Instant, Instant),
        records: u64,
    ) -> bool {
        self.records += records;
        if let Some(max) = self.records_max {
            if self.records >= max {
                self.phase = self.phase.max(Phase::Last);
            } else if self.records >= max / WARM_UP_SHARE {
                self.phase = self.phase.max(Phase::Counting);
            }
        }
        if records == 0 {
            return self.phase < Phase::Last;
        }
        if began_in < Phase::Counting {
            // Behind the window one more is sent, which counts.
            return self.phase < Phase::Over;
        }
        if let Some(progress) = self.progress.get_mut(lane) {
            progress.span = Some((progress.span.map_or(begin, |(first, _)| first), end));
            progress.records += records;
        }
        let took = u64::try_from(end.duration_since(begin).as_micros());
        self.requests.saturating_record(took.unwrap_or(u64::MAX));
        self.phase < Phase::Last
    }

    /// The sum of what each lane did in its own time.
    fn rate(&self) -> Option<f64> {
        let rates = self.progress.iter().filter_map(|progress| {
            let (begin, end) = progress.span?;
            Some(progress.records as f64 / end.duration_since(begin).as_secs_f64())
        });
        let sum: f64 = rates.sum();
        (sum > 0.0 && sum.is_finite()).then_some(sum)
    }
}

/// Runs the lanes through the window; `server` is the group of processes that they load.
pub(crate) async fn measure<L: Lane>(
    lanes: Vec<L>,
    window: Window,
    server: u32,
) -> Result<Reading> {
    let (shared, mut running) = start(lanes, window.records)?;
    let usage = async {
        let usage = || (Instant::now(), usage::of_group(server), usage::of_self());
        enter(&shared, Phase::Counting, window.warm_up).await;
        let begin = usage();
        enter(&shared, Phase::Last, window.duration).await;
        busy(begin, usage())
    };
    let (server_busy, client_busy) = tokio::select! {
        busy = usage => busy,
        error = first_error(&mut running) => return Err(error),
    };
    let ended = timeout(LAST_TIMEOUT, all(&mut running)).await;
    ended.with_context(|| format!("a request has no answer after {LAST_TIMEOUT:?}"))??;
    let state = lock(&shared);
    let records_per_s = state.rate().context("no record was acknowledged in time")?;
    let quantile = |quantile| Some(state.requests.value_at_quantile(quantile));
    let (p50_us, p99_us) = (quantile(0.5), quantile(0.99));
    Ok(Reading { records_per_s, p50_us, p99_us, server_busy, client_busy })
}

/// Runs the lanes until so many records are acknowledged or the time is over, and lets each end
/// its request. How many records that were.
pub(crate) async fn fill<L: Lane>(lanes: Vec<L>, records: u64, time: Duration) -> Result<u64> {
    let (shared, mut running) = start(lanes, Some(records))?;
    tokio::select! {
        () = enter(&shared, Phase::Last, time) => {}
        error = first_error(&mut running) => return Err(error),
    }
    lock(&shared).phase = Phase::Over;
    all(&mut running).await?;
    let records = lock(&shared).records;
    Ok(records)
}

fn start<L: Lane>(
    lanes: Vec<L>,
    records_max: Option<u64>,
) -> Result<(Shared, JoinSet<Result<()>>)> {
    let shared = Arc::new(Mutex::new(State::new(lanes.len(), records_max)?));
    let mut running = JoinSet::new();
    for (index, lane) in lanes.into_iter().enumerate() {
        running.spawn(run(index, lane, Arc::clone(&shared)));
    }
    Ok((shared, running))
}

async fn run<L: Lane>(index: usize, mut lane: L, shared: Shared) -> Result<()> {
    let mut phase = lock(&shared).phase;
    while phase < Phase::Over {
        let begin = Instant::now();
        let records = lane.turn().await?;
        let goes_on = {
            let mut state = lock(&shared);
            let goes_on = state.ended(index, phase, (begin, Instant::now()), records);
            phase = state.phase;
            goes_on
        };
        if !goes_on {
            break;
        }
        if records == 0 {
            sleep(IDLE).await;
        }
    }
    Ok(())
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the lanes have entered a phase by what they did, and makes them do so when the time
/// is over.
async fn enter(shared: &Shared, phase: Phase, time: Duration) {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline && lock(shared).phase < phase {
        let left = deadline.saturating_duration_since(Instant::now());
        sleep(left.min(LOOK_EVERY)).await;
    }
    let mut state = lock(shared);
    state.phase = state.phase.max(phase);
}

/// How many cores server and client kept busy between two moments; none if there was no time.
fn busy(
    begin: (Instant, Duration, Duration),
    end: (Instant, Duration, Duration),
) -> (Option<f64>, Option<f64>) {
    let time = end.0.duration_since(begin.0).as_secs_f64();
    let busy = |begin: Duration, end: Duration| {
        (time > 0.0).then(|| end.saturating_sub(begin).as_secs_f64() / time)
    };
    (busy(begin.1, end.1), busy(begin.2, end.2))
}

/// Waits for all lanes.
async fn all(running: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

/// Waits for a lane that fails; for ever where each ends as it should.
async fn first_error(running: &mut JoinSet<Result<()>>) -> anyhow::Error {
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => return error.into(),
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    struct Sample {
        left: u64,
    }

    impl Lane for Sample {
        async fn turn(&mut self) -> Result<u64> {
            ensure!(self.left != 13, "thirteen");
            let records = self.left.min(10);
            self.left -= records;
            tokio::task::yield_now().await;
            Ok(records)
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn whole_requests_count_in_the_time_of_their_lane() {
        let mut state = State::new(2, None).unwrap();
        let at = Instant::now();
        let second = |second| at + Duration::from_secs(second);
        let span = |begin, end| (second(begin), second(end));
        assert_eq!(state.rate(), None);
        // Lane 0 answers in waves of four seconds; the window is from 1 to 3.
        state.phase = Phase::Last;
        assert!(state.ended(0, Phase::WarmUp, span(0, 4), 100), "began too early; one more");
        assert!(!state.ended(0, Phase::Last, span(4, 8), 100));
        assert_eq!(state.rate(), Some(25.0));
        // Lane 1 begins within the window, waits a second in it, and ends behind it.
        state.phase = Phase::Counting;
        assert!(state.ended(1, Phase::Counting, span(1, 2), 30));
        assert!(state.ended(1, Phase::Counting, span(2, 3), 0));
        state.phase = Phase::Last;
        assert!(!state.ended(1, Phase::Counting, span(3, 4), 30));
        assert_eq!(state.rate(), Some(45.0));
        assert_eq!(state.requests.len(), 3);
        assert!(!state.ended(1, Phase::WarmUp, span(4, 5), 0), "there is nothing left");
    }

    #[test]
    fn cores_are_busy_for_a_part_of_the_time() {
        let (at, ms) = (Instant::now(), Duration::from_millis);
        let begin = (at, ms(1_000), ms(0));
        assert_eq!(busy(begin, (at + ms(2_000), ms(2_500), ms(500))), (Some(0.75), Some(0.25)));
        assert_eq!(busy(begin, begin), (None, None));
    }

    #[test]
    fn a_backlog_is_read_to_its_end() {
        let lanes = vec![Sample { left: 1_000 }, Sample { left: 500 }];
        let window = Window { warm_up: LONG, duration: LONG, records: Some(1_500) };
        let reading = block_on(measure(lanes, window, u32::MAX)).unwrap();
        assert!(reading.records_per_s > 0.0);
        assert!(reading.p99_us.is_some());
    }

    #[test]
    fn lanes_fill_until_they_are_told_to_end() {
        let lanes = || vec![Sample { left: 1_000 }, Sample { left: 500 }];
        assert_eq!(block_on(fill(lanes(), 1_500, LONG)).unwrap(), 1_500);
        let few = block_on(fill(lanes(), u64::MAX, Duration::ZERO)).unwrap();
        assert!(few <= 1_500 && few % 10 == 0, "{few} are whole requests");
    }

    #[test]
    fn a_lane_that_fails_ends_all() {
        let lanes = || vec![Sample { left: u64::MAX }, Sample { left: 33 }];
        let error = block_on(fill(lanes(), u64::MAX, LONG)).unwrap_err();
        assert_eq!(error.to_string(), "thirteen");
        let window = Window { warm_up: LONG, duration: LONG, records: None };
        assert!(block_on(measure(lanes(), window, u32::MAX)).is_err());
    }
}
