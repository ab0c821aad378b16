//! Cores: what the machine has, which of it we take, and one pinned executor on each.
//!
//! Invariant, the panic policy: a panic on a core ends the whole process, at once, with exit code
//! 101 and a line on stderr. The other cores hold state that belongs together with the lost one.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic;
use std::process;
use std::sync::Once;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::glommio::{Latency, LocalExecutorBuilder, Placement, Shares};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::task::{EXIT_CODE_PANIC, PREEMPT_AFTER, run_guarded};
use super::{buffer, preflight};

/// What the machine offers this process.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Processors this process may run on, by the system's number, ascending.
    pub cpus: Vec<usize>,
    /// The processor's name as the maker gives it.
    pub cpu_name: String,
    /// Bytes of memory this process may use: the machine's, or its container's limit.
    pub memory_total: u64,
}

impl Topology {
    /// Looks at the machine.
    #[must_use]
    pub fn detect() -> Self {
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(kinds);
        let Ok(system) = system else {
            return Self { cpus: allowed_cpus(1), cpu_name: String::new(), memory_total: 0 };
        };
        let cpu_name = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
        let machine = system.total_memory();
        let container = system.cgroup_limits().map(|limits| limits.total_memory);
        Self {
            cpus: allowed_cpus(system.cpus().len()),
            cpu_name: cpu_name.unwrap_or_default(),
            memory_total: container.filter(|limit| *limit > 0).unwrap_or(machine).min(machine),
        }
    }
}

/// Bytes of memory this process may use.
#[must_use]
pub fn memory_total() -> u64 {
    Topology::detect().memory_total
}

/// Bytes of memory this process has in use now; 0 when the system does not tell.
#[must_use]
pub fn memory_resident() -> u64 {
    let resident_kib = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    resident_kib.unwrap_or(0) * 1024
}

/// The affinity mask of this thread; 0, 1, 2, ... when it cannot be read.
#[expect(unsafe_code, reason = "std has no affinity")]
fn allowed_cpus(cpu_count: usize) -> Vec<usize> {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is as large as the size given; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return (0..cpu_count.max(1)).collect();
    }
    let bits = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: `cpu` is below CPU_SETSIZE, the number of bits in the set.
    bits.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// The processors a node runs on: one core each, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreSet {
    cpus: Vec<usize>,
}

/// Why a text names no set of cores.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CoreSetError {
    /// Neither a count nor a list.
    #[error("`{text}` is neither a count such as 4 nor a list such as 0-2,5")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// A listed processor does not exist or is not ours to use.
    #[error("processor {cpu} is not available; available: {available:?}")]
    Unavailable {
        /// The processor.
        cpu: usize,
        /// What there is.
        available: Vec<usize>,
    },
    /// More cores were asked for than there are.
    #[error("{asked} cores asked for, {available} available")]
    TooMany {
        /// The count asked for.
        asked: usize,
        /// The count there is.
        available: usize,
    },
}

impl CoreSet {
    /// Every processor this process may use.
    #[must_use]
    pub fn all() -> Self {
        Self { cpus: Topology::detect().cpus }
    }

    /// A count (`4`: the first four) or a list (`0-2,5`; a single processor is `5-5`).
    ///
    /// # Errors
    /// A malformed text, or processors this machine does not have.
    pub fn parse(text: &str) -> Result<Self, CoreSetError> {
        Self::parse_for(text, &Topology::detect())
    }

    /// [`CoreSet::parse`] for a machine already looked at.
    ///
    /// # Errors
    /// As [`CoreSet::parse`].
    pub fn parse_for(text: &str, topology: &Topology) -> Result<Self, CoreSetError> {
        let malformed = || CoreSetError::Malformed { text: text.to_owned() };
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| malformed());
        let available = &topology.cpus;
        if !text.contains([',', '-']) {
            let asked = number(text)?;
            if asked == 0 {
                return Err(malformed());
            }
            let cpus = available.get(..asked).map(<[usize]>::to_vec);
            let too_many = CoreSetError::TooMany { asked, available: available.len() };
            return cpus.map(|cpus| Self { cpus }).ok_or(too_many);
        }
        let mut cpus = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last || last >= libc::CPU_SETSIZE as usize {
                return Err(malformed());
            }
            cpus.extend(first..=last);
        }
        if cpus.is_empty() {
            return Err(malformed());
        }
        match cpus.iter().find(|cpu| !available.contains(cpu)) {
            Some(&cpu) => Err(CoreSetError::Unavailable { cpu, available: available.clone() }),
            None => Ok(Self { cpus: cpus.into_iter().collect() }),
        }
    }

    /// How many cores.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cpus.len()
    }

    /// The processors, one per core.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: Vec<String> = self.cpus.iter().map(ToString::to_string).collect();
        formatter.write_str(&cpus.join(","))
    }
}

/// How the executors run.
#[derive(Clone, Copy, Debug)]
pub struct NodeOptions {
    /// How long an idle core looks for work before it sleeps. More than zero only on processors
    /// that are ours alone.
    pub spin_before_park: Duration,
    /// Bytes of free buffers that a core keeps for later.
    pub buffer_pool_bytes: usize,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { spin_before_park: Duration::ZERO, buffer_pool_bytes: buffer::POOL_BYTES_DEFAULT }
    }
}

/// Which core this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreContext {
    /// 0-based index of the core in the node.
    pub index: u16,
    /// How many cores the node has.
    pub count: u16,
    /// The processor it is pinned to.
    pub cpu: usize,
}

/// The running cores.
pub struct NodeHandle {
    cores: Vec<JoinHandle<io::Result<()>>>,
}

impl NodeHandle {
    /// Waits until every core's future has ended.
    ///
    /// # Errors
    /// The first core whose executor could not run.
    pub fn join(self) -> io::Result<()> {
        for core in self.cores {
            core.join().map_err(|_| io::Error::other("a core panicked"))??;
        }
        Ok(())
    }
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NodeHandle({} cores)", self.cores.len())
    }
}

thread_local! {
    static CURRENT: Cell<Option<CoreContext>> = const { Cell::new(None) };
}

/// The core that runs the caller; `None` outside a node.
#[must_use]
pub fn current_core() -> Option<CoreContext> {
    CURRENT.get()
}

/// Starts one pinned executor per core and runs `body` on each.
///
/// # Errors
/// When a thread cannot be started; cores started before go on.
pub fn start<F, Fut>(cores: &CoreSet, options: NodeOptions, body: F) -> io::Result<NodeHandle>
where
    F: Fn(CoreContext) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    install_panic_policy();
    preflight::raise_open_files();
    forbid_huge_pages();
    let count = u16::try_from(cores.count()).map_err(io::Error::other)?;
    let mut handles = Vec::with_capacity(cores.count());
    for (index, &cpu) in (0..count).zip(cores.cpus()) {
        let context = CoreContext { index, count, cpu };
        let body = body.clone();
        let name = format!("core-{index}");
        let handle = thread::Builder::new().name(name.clone()).spawn(move || {
            let builder = LocalExecutorBuilder::new(Placement::Fixed(cpu))
                .spin_before_park(options.spin_before_park);
            run_guarded(&name, builder, run_core(context, options, body))
        })?;
        handles.push(handle);
    }
    Ok(NodeHandle { cores: handles })
}

/// Keeps the system from backing a few used bytes with 2 MiB of memory: an idle node then takes
/// half as much, and a busy one stays within what it counted.
#[expect(unsafe_code, reason = "prctl has no safe wrapper")]
fn forbid_huge_pages() {
    let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: changes how later page faults of this process are served, and no memory of it.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, yes, unused, unused, unused) };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "huge pages stay allowed");
    }
}

async fn run_core<F, Fut>(context: CoreContext, options: NodeOptions, body: F)
where
    F: Fn(CoreContext) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    CURRENT.set(Some(context));
    buffer::keep_at_most(options.buffer_pool_bytes);
    // A queue whose latency matters is interrupted by completions and by wake-ups from other
    // threads; in glommio's default queue those wait for the preemption timer.
    let latency = Latency::Matters(PREEMPT_AFTER);
    let queue = ::glommio::executor().create_task_queue(Shares::default(), latency, "core");
    match ::glommio::spawn_local_into(body(context), queue) {
        Ok(task) => task.await,
        Err(error) => super::task::fatal(&format!("cannot start core {}: {error}", context.index)),
    }
}

/// Makes a panic on a core thread the end of the process. Panics on other threads (tests, the
/// helper threads whose calls are guarded) keep their meaning.
#[expect(unsafe_code, reason = "exit handlers must not run while other cores still do")]
fn install_panic_policy() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            previous(info);
            if let Some(core) = current_core() {
                let index = core.index;
                let line = format!("barrage: core {index} panicked; the process ends\n");
                drop(io::Write::write_all(&mut io::stderr(), line.as_bytes()));
                // SAFETY: ends the process; nothing runs after it.
                unsafe { libc::_exit(EXIT_CODE_PANIC) }
            }
        }));
    });
}

/// This process's number.
#[must_use]
pub fn process_id() -> u32 {
    process::id()
}
