//! `barrage start`: configuration, checks, the data directory, addresses; then the cores.

use std::path::{Path, PathBuf};

use barrage_world::node::CoreSet;
use barrage_world::preflight::preflight;
use clap::Args;

use crate::address::Addresses;
use crate::config::{Config, Flag, Sources};
use crate::exit::{Exit, Failure};
use crate::{doctor, join, log, node};

/// Flags of `start`; each has a key in the configuration.
#[derive(Args)]
#[command(after_long_help = crate::config::help())]
pub(crate) struct StartArgs {
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE", env = "BARRAGE_CONFIG")]
    config: Option<PathBuf>,
    /// Any setting, for example storage.segment_size=16MiB; may come more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Where the data is [default: ./barrage-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// The address that every core accepts; port 0 takes a free one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Each core's own port: the first of a row, or off [default: free ones]
    #[arg(long, value_name = "FIRST|off")]
    core_ports: Option<String>,
    /// Join the cluster of these members, by their client addresses
    #[arg(long, value_name = "HOST:PORT[,...]")]
    join: Option<String>,
    /// Where other nodes reach this one [default: the port of --listen + 100]
    #[arg(long, value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// The host that clients and other nodes are told [default: that of --listen]
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Data shards of the cluster that is founded here [default: one per core]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// How many cores, or which: 4, 0-2,5 [default: all]
    #[arg(long, value_name = "N|LIST")]
    cores: Option<String>,
    /// Memory for caches, buffers and requests [default: a quarter of the machine's]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Written as JSON when the node serves: addresses, node id, process id
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Listen beyond loopback although nobody has to log in
    #[arg(long)]
    insecure: bool,
}

impl StartArgs {
    fn sources(&self) -> Result<Sources, Failure> {
        let mut flags = Vec::new();
        for setting in &self.settings {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(Failure::usage(format!("--set {setting}: KEY=VALUE expected")));
            };
            let (key, value) = (key.trim().to_owned(), value.to_owned());
            flags.push(Flag { name: "--set", key, value });
        }
        let named = [
            ("--data", "data_dir", &self.data),
            ("--listen", "listen", &self.listen),
            ("--join", "join", &self.join),
            ("--peer-listen", "peer_listen", &self.peer_listen),
            ("--advertise", "node.advertise", &self.advertise),
            ("--shards", "shards", &self.shards),
            ("--core-ports", "core_ports", &self.core_ports),
            ("--cores", "cores", &self.cores),
            ("--memory", "memory", &self.memory),
        ];
        for (name, key, value) in named {
            let flag = |value: &String| Flag { name, key: key.to_owned(), value: value.clone() };
            flags.extend(value.as_ref().map(flag));
        }
        if self.insecure {
            let (key, value) = ("insecure".to_owned(), "true".to_owned());
            flags.push(Flag { name: "--insecure", key, value });
        }
        // The file's own variable is no setting.
        let environment = std::env::vars().filter(|(name, _)| name != "BARRAGE_CONFIG").collect();
        Ok(Sources { file: self.config.clone(), environment, flags })
    }
}

/// Runs a node until it is told to stop.
pub(crate) fn run(args: StartArgs) -> Result<Exit, Failure> {
    log::start().map_err(Failure::usage)?;
    let config = Config::load(&args.sources()?).map_err(Failure::usage)?;
    check_machine(&config.data_dir)?;
    let cores = config.cores.clone().unwrap_or_else(CoreSet::all);
    let addresses = Addresses::bind(&config, cores.count())?;
    let home = join::enter(&config, &addresses)?;
    node::run(&config, &cores, addresses, home, args.ready_file.as_deref())
}

/// Looks at what the machine must allow; the cause and the fix are told for what it does not.
fn check_machine(data_dir: &Path) -> Result<(), Failure> {
    let checks = preflight(data_dir);
    for check in checks.iter().filter(|check| !check.ok && !check.required) {
        tracing::warn!(check = check.name, detail = check.detail, fix = check.fix, "preflight");
    }
    let failed: Vec<String> =
        checks.iter().filter(|check| check.is_fatal()).map(doctor::line).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("this machine cannot run a node:\n{}", failed.join("\n"))))
}
