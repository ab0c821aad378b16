//! The links between hosts: what becomes of a packet that enters one.
//!
//! Owns how each link behaves, and when it is free again. Pure: time and chance come in as
//! arguments. A link is one direction of the way between two hosts.
//!
//! ```text
//!   packet --> cut? --> wait for those before, be sent at bytes per second --> lost?
//!          --> latency [+ the delay that lets others overtake] --> a copy arrives
//!                                               [and later, again: a duplicate]
//! ```
//!
//! Invariants: packets arrive in order, but for those that were drawn to be reordered and for
//! duplicates; a rate of zero draws nothing.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::host::Host;
use super::rng::Rng;

/// How one direction between two hosts behaves. Rates are in parts per million of its packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkOptions {
    /// How long a packet is under way, drawn anew for each.
    pub latency: RangeInclusive<Duration>,
    /// Packets that do not arrive. A stream sends again, later.
    pub loss_ppm: u32,
    /// Packets that arrive twice.
    pub duplicate_ppm: u32,
    /// Packets that are held up, so that later ones overtake them.
    pub reorder_ppm: u32,
    /// Packets of which a byte arrives altered.
    pub corrupt_ppm: u32,
    /// Streams too; without it their checksums hold, and the byte is sent again.
    pub corrupt_streams: bool,
    /// How fast the link sends; None when its speed does not matter.
    pub bytes_per_second: Option<u64>,
    /// Nothing arrives.
    pub cut: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(50)..=Duration::from_micros(500),
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            corrupt_ppm: 0,
            corrupt_streams: false,
            bytes_per_second: None,
            cut: false,
        }
    }
}

impl LinkOptions {
    /// The way of a host to itself, unless it is set.
    fn loopback() -> Self {
        let latency = Duration::from_micros(5)..=Duration::from_micros(40);
        Self { latency, ..Self::default() }
    }

    fn check(&self) {
        assert!(self.latency.start() <= self.latency.end(), "a latency is a range, not empty");
        assert!(self.bytes_per_second != Some(0), "a link that sends nothing is a cut one");
        for ppm in [self.loss_ppm, self.duplicate_ppm, self.reorder_ppm, self.corrupt_ppm] {
            assert!(ppm <= MILLION, "{ppm} parts of a million");
        }
    }

    /// The longest a packet is held up beyond its latency: some times the latency, so that others
    /// overtake it.
    fn hold_up_ns_max(&self) -> u64 {
        nanoseconds(*self.latency.end()).saturating_mul(HOLD_UP_LATENCIES).max(HOLD_UP_NS_MIN)
    }
}

/// What becomes of a packet.
#[derive(Clone, Default, Debug)]
pub(super) struct Route {
    /// Empty when it is lost; the first comes first, if the second is not drawn to overtake it.
    pub(super) copies: Vec<Copy>,
    /// When it would arrive if nothing happened to it.
    pub(super) expected_ns: u64,
    pub(super) fate: Fate,
    pub(super) reordered: bool,
}

impl Route {
    /// Whether anything happens that does not happen on a good link.
    pub(super) fn is_odd(&self) -> bool {
        let altered = self.copies.iter().any(|copy| copy.damage.is_some());
        self.copies.len() != 1 || self.reordered || altered
    }
}

/// Why nothing arrives.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Fate {
    #[default]
    Carried,
    Lost,
    Cut,
}

/// One arrival.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copy {
    pub(super) at_ns: u64,
    /// What to alter: says which bit of the packet.
    pub(super) damage: Option<u64>,
}

#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<(Host, Host), Link>,
    /// For pairs of hosts that were not set.
    others: LinkOptions,
}

struct Link {
    options: LinkOptions,
    /// Until then it sends what came before.
    busy_until_ns: u64,
    /// When the last packet arrives that keeps its place.
    arrival_ns: u64,
}

impl Links {
    pub(super) fn options(&self, from: Host, to: Host) -> LinkOptions {
        self.links.get(&(from, to)).map_or_else(|| self.fresh(from, to), |it| it.options.clone())
    }

    pub(super) fn is_cut(&self, from: Host, to: Host) -> bool {
        self.links.get(&(from, to)).map_or(self.others.cut && from != to, |link| link.options.cut)
    }

    pub(super) fn bytes_per_second(&self, from: Host, to: Host) -> Option<u64> {
        self.links
            .get(&(from, to))
            .map_or(if from == to { None } else { self.others.bytes_per_second }, |link| {
                link.options.bytes_per_second
            })
    }

    /// What a stream allows between sending and hearing of it, there and back.
    pub(super) fn round_trip_ns_max(&self, from: Host, to: Host) -> u64 {
        let latency_ns = |from, to| {
            let link = self.links.get(&(from, to));
            nanoseconds(*link.map_or(&self.others, |link| &link.options).latency.end())
        };
        latency_ns(from, to).saturating_add(latency_ns(to, from))
    }

    pub(super) fn change(&mut self, from: Host, to: Host, change: impl FnOnce(&mut LinkOptions)) {
        let options = &mut self.link(from, to).options;
        change(options);
        options.check();
    }

    /// All links between different hosts.
    pub(super) fn set_all(&mut self, options: &LinkOptions) {
        options.check();
        self.others = options.clone();
        for (_, link) in self.links.iter_mut().filter(|((from, to), _)| from != to) {
            link.options = options.clone();
        }
    }

    pub(super) fn heal_all(&mut self) {
        self.others.cut = false;
        for link in self.links.values_mut() {
            link.options.cut = false;
        }
    }

    /// Decides about a packet of `size` bytes that enters a link now.
    pub(super) fn route(
        &mut self,
        (from, to): (Host, Host),
        size: usize,
        now_ns: u64,
        random: &mut Rng,
    ) -> Route {
        let link = self.link(from, to);
        let options = &link.options;
        let sends_at_ns = link.busy_until_ns.max(now_ns);
        let sent_ns = sends_at_ns.saturating_add(sending_ns(size, options.bytes_per_second));
        let latency_ns = between(&options.latency, random);
        let mut route = Route { expected_ns: sent_ns + latency_ns, ..Route::default() };
        if options.cut {
            route.fate = Fate::Cut;
            return route;
        }
        if sends_at_ns - now_ns > QUEUE_NS_MAX || drawn(options.loss_ppm, random) {
            route.fate = Fate::Lost;
            return route;
        }
        link.busy_until_ns = sent_ns;
        route.reordered = drawn(options.reorder_ppm, random);
        let mut at_ns = route.expected_ns;
        if route.reordered {
            at_ns += random.between(1, options.hold_up_ns_max());
        } else {
            at_ns = at_ns.max(link.arrival_ns);
            link.arrival_ns = at_ns;
        }
        let damage =
            |random: &mut Rng| drawn(options.corrupt_ppm, random).then(|| random.next_u64());
        route.copies.push(Copy { at_ns, damage: damage(random) });
        if drawn(options.duplicate_ppm, random) {
            let at_ns = at_ns + random.between(0, options.hold_up_ns_max());
            route.copies.push(Copy { at_ns, damage: damage(random) });
        }
        route
    }

    fn link(&mut self, from: Host, to: Host) -> &mut Link {
        let options = self.fresh(from, to);
        let link = Link { options, busy_until_ns: 0, arrival_ns: 0 };
        self.links.entry((from, to)).or_insert(link)
    }

    fn fresh(&self, from: Host, to: Host) -> LinkOptions {
        if from == to { LinkOptions::loopback() } else { self.others.clone() }
    }
}

fn sending_ns(size: usize, bytes_per_second: Option<u64>) -> u64 {
    bytes_per_second.map_or(0, |rate| (size as u64).saturating_mul(SECOND_NS) / rate)
}

fn between(range: &RangeInclusive<Duration>, random: &mut Rng) -> u64 {
    random.between(nanoseconds(*range.start()), nanoseconds(*range.end()))
}

fn drawn(ppm: u32, random: &mut Rng) -> bool {
    ppm > 0 && random.below(u64::from(MILLION)) < u64::from(ppm)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const MILLION: u32 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// What would wait longer before it is sent finds the queue full, and is lost.
const QUEUE_NS_MAX: u64 = 2 * SECOND_NS;
const HOLD_UP_LATENCIES: u64 = 8;
const HOLD_UP_NS_MIN: u64 = 1_000_000;
