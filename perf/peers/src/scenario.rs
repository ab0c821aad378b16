//! What is measured, and how the load is shaped.
//!
//! Owns: the scenarios and their defaults. Must never: differ between Barrage and a peer.
//! Invariants: at least one connection, each with at least one request under way.

use clap::ValueEnum;
use serde::Serialize;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Many records in a request.
    Produce,
    /// One record in a request.
    ProduceSingle,
    /// Receiving records and acking each of them.
    Queue,
}

/// The shape of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shape {
    pub(crate) record_size: usize,
    /// Records of a request, or of a receive.
    pub(crate) batch_records: u32,
    pub(crate) connections: usize,
    /// Requests under way on each connection.
    pub(crate) in_flight: usize,
}

/// What the user asks for; what is left out depends on the scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) record_size: usize,
    pub(crate) batch_records: u32,
    pub(crate) connections: Option<usize>,
    /// Requests under way on all connections together.
    pub(crate) in_flight: Option<usize>,
}

impl Scenario {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::ProduceSingle => "produce-single",
            Self::Queue => "queue",
        }
    }

    /// The shape of its load. Fails where the requests do not fit the connections.
    pub(crate) fn shape(self, wish: Wish) -> Result<Shape, String> {
        let (connections, in_flight) = match self {
            Self::Produce => (8, 32),
            Self::ProduceSingle => (1, 64),
            Self::Queue => (1, 4),
        };
        let connections = wish.connections.unwrap_or(connections);
        let in_flight = wish.in_flight.unwrap_or(in_flight.max(connections));
        if connections == 0 || in_flight == 0 || !in_flight.is_multiple_of(connections) {
            return Err(format!(
                "{}: --in-flight {in_flight} is not a multiple of --connections {connections}",
                self.name()
            ));
        }
        let batch_records = if self == Self::ProduceSingle { 1 } else { wish.batch_records };
        let in_flight = in_flight / connections;
        Ok(Shape { record_size: wish.record_size, batch_records, connections, in_flight })
    }
}

impl Shape {
    /// As many records as are under way on one connection.
    pub(crate) const fn window(&self) -> usize {
        self.in_flight * self.batch_records as usize
    }

    /// What a queue is filled with, before it is measured.
    pub(crate) const fn filling(&self) -> Self {
        Self { connections: 1, in_flight: 4, ..*self }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { record_size, batch_records, connections, in_flight } = self;
        write!(
            formatter,
            "{record_size}-byte records, {batch_records} in a request; {in_flight} requests under \
             way on each connection, connections: {connections}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(connections: Option<usize>, in_flight: Option<usize>) -> Wish {
        Wish { record_size: 100, batch_records: 1000, connections, in_flight }
    }

    #[test]
    fn loads_are_shaped() {
        let check = |scenario: Scenario, wish, want: Option<(u32, usize, usize)>| {
            let shape = scenario.shape(wish).ok();
            let found = shape.map(|s| (s.batch_records, s.connections, s.in_flight));
            assert_eq!(found, want, "{scenario:?} {wish:?}");
        };
        check(Scenario::Produce, wish(None, None), Some((1000, 8, 4)));
        check(Scenario::ProduceSingle, wish(None, None), Some((1, 1, 64)));
        check(Scenario::Queue, wish(None, None), Some((1000, 1, 4)));
        check(Scenario::ProduceSingle, wish(Some(8), Some(8192)), Some((1, 8, 1024)));
        check(Scenario::Produce, wish(Some(64), None), Some((1000, 64, 1)));
        check(Scenario::Produce, wish(Some(3), None), None);
        check(Scenario::Produce, wish(Some(0), Some(0)), None);
    }
}
