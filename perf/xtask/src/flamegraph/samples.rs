//! Samples as perf prints them: those that count.
//!
//! ```text
//! core-0  410/412  3820.123456:  cpu-clock:
//!         55e0 symbol (file)
//!         ...
//!                                              an empty line ends a sample
//! ```
//!
//! Owns: from when on they count. A node takes new memory in its first second or two, until caches
//! and pools are full, and `barrage bench` does not count that time either.

/// After the first sample of a node.
const WARM_UP_S: f64 = 2.0;

/// The samples of the processes `drawn`, from when the first of `nodes` has warmed up.
pub(super) fn counted(text: &str, nodes: &[u32], drawn: &[u32]) -> String {
    let samples = || text.split("\n\n").filter_map(|sample| head(sample).map(|at| (at, sample)));
    let of_nodes = samples().filter(|((process, _), _)| nodes.contains(process));
    let first_s = of_nodes.map(|((_, at_s), _)| at_s).fold(f64::INFINITY, f64::min);
    let since_s = first_s + WARM_UP_S;
    let mut counted = String::new();
    for ((process, at_s), sample) in samples() {
        if drawn.contains(&process) && at_s >= since_s {
            counted.push_str(sample.trim_matches('\n'));
            counted.push_str("\n\n");
        }
    }
    counted
}

/// Process and time of a sample.
fn head(sample: &str) -> Option<(u32, f64)> {
    let line = sample.lines().find(|line| !line.is_empty())?;
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).find_map(|pair| {
        let [process, time] = pair else { return None };
        let (process, thread) = process.split_once('/')?;
        thread.parse::<u32>().ok()?;
        Some((process.parse().ok()?, time.strip_suffix(':')?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_count_when_the_node_is_warm() {
        let sample = |comm: &str, process: u32, at: &str| {
            format!("{comm} {process}/77  {at}:   cpu-clock: \n\t  55e0 run+0x1 (/a b)\n\n")
        };
        let (early, late) = (sample("core-0", 4, "10.5"), sample("core-0", 4, "12.500001"));
        let (client, other) = (sample("a 1 b", 3, "13.0"), sample("x", 9, "13.0"));
        let before = sample("a 1 b", 3, "9.0");
        let text = [before, early, late.clone(), other, client.clone()].concat();
        assert_eq!(counted(&text, &[4], &[4]), late);
        assert_eq!(counted(&text, &[4], &[3]), client);
        assert_eq!(counted(&text, &[5], &[4]), "");
        assert_eq!(head("\t 55e0 run (/a)"), None);
    }
}
