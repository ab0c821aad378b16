//! Where the other members are, for whoever connects to them.
//!
//! Must never: trust what one node says of another over what that other says itself.

use barrage_model::NodeId;

use crate::beacons::now_ms;
use crate::broker::Broker;
use crate::shard::handle::first_of;

impl Broker {
    /// Follows where the other members are reached: waits until that is not `seen` any more. What
    /// a node itself has told lately counts before what the catalog says: a node that was started
    /// elsewhere is found before a majority knows it.
    pub async fn members(&self, seen: &[(NodeId, String)]) -> Vec<(NodeId, String)> {
        let mut board = self.core.board.subscribe();
        let mut catalog = self.core.catalog_watch();
        loop {
            drop((board.borrow_and_update(), catalog.borrow_and_update()));
            let found = self.members_now();
            if found != seen {
                return found;
            }
            // Neither ends while this handle lives.
            let board = async { board.changed().await.unwrap_or(()) };
            first_of(board, async { catalog.changed().await.unwrap_or(()) }).await;
        }
    }

    fn members_now(&self) -> Vec<(NodeId, String)> {
        let (catalog, board) = (self.core.catalog(), self.core.board.borrow());
        let others = catalog.nodes().members().filter(|node| node.id != self.node());
        others.map(|node| (node.id, board.peer_address(node).to_owned())).collect()
    }

    /// Somebody else says where a member is reached. It counts until the member itself is heard,
    /// and not where it is heard now.
    pub fn hear_where(&self, node: NodeId, peer_address: String) {
        if node != self.node() {
            self.core.hear_where(node, &peer_address);
        }
    }

    /// Whether a majority of the members, this one among them, was heard of lately.
    pub fn hears_majority(&self) -> bool {
        let (catalog, board) = (self.core.catalog(), self.core.board.borrow());
        let present = board.present(now_ms());
        let (mut members, mut heard) = (0, 0);
        for node in catalog.nodes().members() {
            members += 1;
            heard += usize::from(node.id == self.node() || present.contains(&node.id));
        }
        heard * 2 > members
    }
}
