//! Preflight: what the machine must allow before a node can run, each with its cause and fix.
//!
//! glommio ends the process when the kernel refuses io_uring; so we ask the kernel first. All calls
//! here block: they run before the executors, on an ordinary thread.

use std::fs;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{BLOCK_SIZE, random};

/// Locked memory that glommio asks for per executor.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// Connections, segments and rings need descriptors.
const OPEN_FILES_MIN: u64 = 16_384;
/// Below this a node is of little use.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// How often the sync probe writes and syncs a block.
const SYNC_PROBE_COUNT: usize = 16;
/// A median sync slower than this is reported.
const SYNC_MEDIAN_MAX: Duration = Duration::from_millis(20);
/// Size of `struct io_uring_params`.
const IO_URING_PARAMS_BYTES: usize = 120;

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What: a short fixed name.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether a node can start in spite of it.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when it is ok.
    pub fix: String,
}

impl Check {
    fn passed(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, required: true, detail: detail.into(), fix: String::new() }
    }

    fn failed(name: &'static str, detail: impl Into<String>, fix: &str) -> Self {
        let (detail, fix) = (detail.into(), fix.to_owned());
        Self { name, ok: false, required: true, detail, fix }
    }

    fn warned(name: &'static str, detail: impl Into<String>, fix: &str) -> Self {
        Self { required: false, ..Self::failed(name, detail, fix) }
    }

    /// Whether a node must not start.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.required && !self.ok
    }
}

/// Looks at everything a node needs, with its data under `data_dir`, which is created.
#[must_use]
pub fn preflight(data_dir: &Path) -> Vec<Check> {
    let mut checks = vec![check_io_uring(), check_memlock(), check_open_files()];
    match fs::create_dir_all(data_dir) {
        Ok(()) => checks.extend(check_data_dir(data_dir)),
        Err(error) => checks.push(Check::failed(
            "data directory",
            format!("{}: {error}", data_dir.display()),
            "choose a directory that this user may create and write (--data)",
        )),
    }
    checks
}

#[expect(unsafe_code, reason = "libc has no wrapper for io_uring")]
fn check_io_uring() -> Check {
    const NAME: &str = "io_uring";
    let mut params = [0_u8; IO_URING_PARAMS_BYTES];
    // SAFETY: the kernel writes into `params`, which is as large as its struct.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8_u32, params.as_mut_ptr()) };
    match RawFd::try_from(result) {
        Ok(descriptor) if descriptor >= 0 => {
            // SAFETY: the call gave us this descriptor; dropping the owner closes it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            return Check::passed(NAME, "allowed");
        }
        _ => {}
    }
    let error = io::Error::last_os_error();
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Check::failed(
            NAME,
            "this kernel has no io_uring",
            "use Linux 5.11 or newer; in a container, allow the io_uring system calls (seccomp)",
        ),
        Some(libc::EPERM) if matches!(disabled.trim(), "1" | "2") => Check::failed(
            NAME,
            format!("forbidden: kernel.io_uring_disabled = {}", disabled.trim()),
            "sysctl -w kernel.io_uring_disabled=0",
        ),
        Some(libc::EPERM) => Check::failed(
            NAME,
            "forbidden by a seccomp filter (Docker 25 and newer block it by default)",
            "run the container with a seccomp profile that allows io_uring_setup, io_uring_enter \
             and io_uring_register, or with --security-opt seccomp=unconfined",
        ),
        Some(libc::ENOMEM) => Check::failed(
            NAME,
            "too little locked memory for a ring",
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the service file",
        ),
        _ => Check::failed(NAME, error.to_string(), "see io_uring_setup(2)"),
    }
}

fn check_memlock() -> Check {
    const NAME: &str = "locked memory";
    let Some((soft, _)) = limit(libc::RLIMIT_MEMLOCK) else {
        return Check::warned(NAME, "the limit cannot be read", "see getrlimit(2)");
    };
    if soft == libc::RLIM_INFINITY {
        return Check::passed(NAME, "unlimited");
    }
    let detail = format!("limit {} KiB", soft >> 10);
    if soft >= MEMLOCK_BYTES_MIN {
        return Check::passed(NAME, detail);
    }
    let fix = "ulimit -l unlimited, or LimitMEMLOCK=infinity in the service file";
    Check::failed(NAME, format!("{detail}, {} KiB needed", MEMLOCK_BYTES_MIN >> 10), fix)
}

fn check_open_files() -> Check {
    const NAME: &str = "open files";
    let Some((_, hard)) = limit(libc::RLIMIT_NOFILE) else {
        return Check::warned(NAME, "the limit cannot be read", "see getrlimit(2)");
    };
    let detail = format!("limit {hard}");
    if hard >= OPEN_FILES_MIN {
        return Check::passed(NAME, detail);
    }
    let fix = "ulimit -n 1048576, or LimitNOFILE=1048576 in the service file";
    Check::warned(NAME, format!("{detail}, {OPEN_FILES_MIN} recommended"), fix)
}

fn check_data_dir(dir: &Path) -> Vec<Check> {
    let path = dir.join(format!(".preflight-{:016x}", random::random_u64()));
    let mut checks = vec![check_file_system(dir)];
    checks.push(check_free_space(dir));
    checks.extend(check_direct_io(&path));
    drop(fs::remove_file(&path));
    checks
}

#[expect(unsafe_code, reason = "std has no statfs")]
fn check_file_system(dir: &Path) -> Check {
    const NAME: &str = "file system";
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    let filled = std::ffi::CString::new(dir.as_os_str().as_bytes()).is_ok_and(|path| {
        // SAFETY: the path ends in a zero byte and `stat` has room for the answer.
        unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) == 0 }
    });
    if !filled {
        let detail = io::Error::last_os_error().to_string();
        return Check::failed(NAME, detail, "choose another data directory (--data)");
    }
    // SAFETY: the call succeeded, so it filled `stat` in.
    let kind = unsafe { stat.assume_init() }.f_type;
    let named = |name: &str| Check::passed(NAME, name);
    match kind {
        0x5846_5342 => named("xfs"),
        0xEF53 => named("ext4"),
        0x9123_683E => Check::warned(NAME, "btrfs", "prefer xfs or ext4: copy-on-write is slow"),
        libc::TMPFS_MAGIC => Check::warned(
            NAME,
            "tmpfs: data lies in memory and is lost with it",
            "put the data directory on a disk (--data)",
        ),
        0x6969 => Check::warned(NAME, "nfs", "use a local disk: syncs over NFS are slow"),
        0x794C_7630 => Check::warned(
            NAME,
            "overlayfs",
            "mount a volume for the data directory: a container's own layer is not kept",
        ),
        other => named(&format!("type {other:#x}")),
    }
}

fn check_free_space(dir: &Path) -> Check {
    const NAME: &str = "free space";
    match super::fs::free_space_now(dir) {
        Ok(free) if free >= FREE_BYTES_MIN => Check::passed(NAME, format!("{} MiB", free >> 20)),
        Ok(free) => Check::warned(
            NAME,
            format!("{} MiB", free >> 20),
            "free some space: the log reserves whole segments ahead",
        ),
        Err(error) => Check::warned(NAME, error.to_string(), "see statvfs(3)"),
    }
}

/// Memory aligned for direct I/O, outside an executor.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_SIZE]);

fn check_direct_io(path: &Path) -> Vec<Check> {
    const NAME: &str = "direct I/O";
    let write = |path: &Path| {
        let mut prepare = fs::File::create_new(path)?;
        prepare.write_all(&[0; BLOCK_SIZE])?;
        drop(prepare);
        let file =
            fs::File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        file.write_all_at(&Block([0; BLOCK_SIZE]).0, 0)?;
        Ok(file)
    };
    let result: io::Result<fs::File> = write(path);
    match result {
        Ok(file) => vec![Check::passed(NAME, "4 KiB blocks"), check_sync(&file)],
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => vec![Check::failed(
            NAME,
            "this file system or device does not do direct I/O in 4 KiB blocks",
            "put the data directory on xfs or ext4 on a local disk (--data)",
        )],
        Err(error) => vec![Check::failed(
            NAME,
            error.to_string(),
            "the data directory must be writable by this user",
        )],
    }
}

fn check_sync(file: &fs::File) -> Check {
    const NAME: &str = "sync latency";
    let block = Block([0; BLOCK_SIZE]);
    let mut times = Vec::with_capacity(SYNC_PROBE_COUNT);
    for _ in 0..SYNC_PROBE_COUNT {
        let start = Instant::now();
        let synced = file.write_all_at(&block.0, 0).and_then(|()| file.sync_data());
        if let Err(error) = synced {
            return Check::failed(NAME, error.to_string(), "the device fails: check its log");
        }
        times.push(start.elapsed());
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let worst = times.last().copied().unwrap_or_default();
    let detail = format!("write + fdatasync of 4 KiB: median {median:.0?}, worst {worst:.0?}");
    if median <= SYNC_MEDIAN_MAX {
        return Check::passed(NAME, detail);
    }
    Check::warned(NAME, detail, "every acknowledgement waits for a sync: use an SSD or NVMe disk")
}

/// Soft and hard value of a limit.
#[expect(unsafe_code, reason = "std has no getrlimit")]
fn limit(resource: libc::__rlimit_resource_t) -> Option<(u64, u64)> {
    let mut value = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `value` is a valid rlimit that the call fills in.
    let result = unsafe { libc::getrlimit(resource, &raw mut value) };
    (result == 0).then_some((value.rlim_cur, value.rlim_max))
}

/// Raises the number of files this process may open to what it is allowed to ask for.
#[expect(unsafe_code, reason = "std has no setrlimit")]
pub(super) fn raise_open_files() {
    let Some((soft, hard)) = limit(libc::RLIMIT_NOFILE) else { return };
    if soft < hard {
        let value = libc::rlimit { rlim_cur: hard, rlim_max: hard };
        // SAFETY: `value` is a valid rlimit that the call only reads.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const value) };
        if result != 0 {
            tracing::warn!(soft, hard, "cannot raise the limit of open files");
        }
    }
}
