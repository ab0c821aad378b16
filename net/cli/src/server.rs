//! Which server a command talks to.

use barrage_client::{Client, ClientOptions, SERVER_DEFAULT};

/// Port of a server named without one.
const PORT_DEFAULT: &str = "7400";

/// The flag that every client command has.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    /// Where a node listens; several with commas between them
    #[arg(
        long,
        env = "BARRAGE_SERVER",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = SERVER_DEFAULT
    )]
    pub server: Vec<String>,
}

impl ServerArgs {
    /// Connects to the first that answers.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.options()).await?)
    }

    /// What the client is given.
    pub(crate) fn options(&self) -> ClientOptions {
        let servers = self.server.iter().map(|server| with_port(server.trim())).collect();
        let client_name = concat!("barrage ", env!("CARGO_PKG_VERSION")).to_owned();
        ClientOptions { servers, client_name, ..ClientOptions::default() }
    }
}

fn with_port(server: &str) -> String {
    // The last colon of `[::1]` is not in front of a port.
    match server.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => server.to_owned(),
        _ => format!("{server}:{PORT_DEFAULT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_missing_port_is_the_default() {
        let table = [
            ("db1", "db1:7400"),
            ("db1:9", "db1:9"),
            ("[::1]", "[::1]:7400"),
            ("[::1]:9", "[::1]:9"),
        ];
        for (server, expected) in table {
            assert_eq!(with_port(server), expected);
        }
    }
}
